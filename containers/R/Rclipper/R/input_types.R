# The eight kinds of inputs: what each is for Clipper, and how an input is read again from what was sent.

# The order counts: a data frame is a list too, a matrix an array, and all but lists and strings are vectors.
input_types <- list(
  list(name = "data frame", clipper_type = "strings", is = is.data.frame),
  list(name = "raw vector", clipper_type = "bytes", is = function(x) is.raw(x) && is_plain(x)),
  list(name = "integer vector", clipper_type = "ints", is = function(x) is.integer(x) && is_plain(x)),
  list(name = "numeric vector", clipper_type = "doubles", is = function(x) is.double(x) && is_plain(x)),
  list(name = "string", clipper_type = "strings", is = function(x) is.character(x) && is_plain(x) && length(x) == 1),
  list(name = "matrix", clipper_type = "strings", is = function(x) is.matrix(x) && is_simple(x)),
  list(name = "array", clipper_type = "strings", is = function(x) is.array(x) && is_simple(x)),
  list(name = "list", clipper_type = "strings", is = function(x) is.list(x) && !is.object(x))
)

# The numbers of Clipper's input types on the wire, and the words for them that managers may use.
wire_types <- c(bytes = 0L, ints = 1L, floats = 2L, doubles = 3L, strings = 4L)
type_words <- list(
  bytes = c("b", "byte", "bytes"), ints = c("i", "int", "ints", "integer", "integers"),
  floats = c("f", "float", "floats"), doubles = c("d", "double", "doubles"),
  strings = c("s", "str", "strs", "string", "strings")
)

is_plain <- function(x) !is.object(x) && is.null(dim(x))
is_simple <- function(x) !is.object(x) && (is.numeric(x) || is.character(x) || is.logical(x))

# The kind of input that a sample stands for.
input_type_of <- function(sample_input) {
  for (type in input_types) if (type$is(sample_input)) return(type)
  stop("sample_input is ", describe_kind(sample_input), ", which cannot be an input of a Clipper model. It should be ",
    "a single input: a raw, integer or numeric vector, a string (a character vector of length 1), a data frame, ",
    "a matrix, an array or a list.", hint(sample_input), call. = FALSE)
}

hint <- function(x) {
  if (is.logical(x)) return(" as.integer() makes an integer vector of it.")
  if (is.factor(x)) return(" as.character() or as.integer() makes something else of a factor.")
  if (is.character(x)) return(" Several texts as one input are a list: as.list().")
  if (is.object(x)) return(" unclass() takes its class from it.")
  ""
}

describe_kind <- function(x) {
  if (is.null(x)) return("NULL")
  if (is.function(x)) return("a function")
  kind <- if (is.object(x)) paste0("of class ", paste(class(x), collapse = "/")) else paste("a vector of type", typeof(x))
  if (is.atomic(x)) paste0(kind, " and length ", length(x)) else if (is.object(x)) kind else paste("of type", typeof(x))
}

# --- what was sent becomes an input ---

# One input of raw bytes, as `sample_input` is.
decode_input <- function(bytes, sample_input, type = input_type_of(sample_input)) {
  switch(type$name,
    "raw vector" = bytes,
    "integer vector" = readBin(bytes, "integer", length(bytes) %/% 4, size = 4, endian = "little"),
    "numeric vector" = readBin(bytes, "double", length(bytes) %/% 8, size = 8, endian = "little"),
    "string" = as_text(bytes),
    restore(as_text(bytes), sample_input, type$name)
  )
}

# The bytes that Clipper sends for an input.
encode_input <- function(input, type = input_type_of(input)) {
  switch(type$name,
    "raw vector" = input,
    "integer vector" = writeBin(as.vector(input), raw(), size = 4, endian = "little"),
    "numeric vector" = writeBin(as.vector(input), raw(), size = 8, endian = "little"),
    "string" = charToRaw(enc2utf8(input)),
    charToRaw(enc2utf8(as.character(jsonlite::toJSON(input, digits = NA))))
  )
}

as_text <- function(bytes) {
  text <- rawToChar(bytes)
  Encoding(text) <- "UTF-8"
  text
}

# JSON, as jsonlite::toJSON writes it, as the same kind of object as the sample.
restore <- function(json, sample_input, name) {
  is_list <- name == "list"
  value <- tryCatch(
    jsonlite::parse_json(json, simplifyVector = TRUE, simplifyDataFrame = !is_list, simplifyMatrix = !is_list),
    error = function(error) stop("the input is not JSON: ", conditionMessage(error), call. = FALSE)
  )
  switch(name,
    "data frame" = restore_data_frame(value, sample_input),
    "matrix" = restore_array(value, sample_input, name),
    "array" = restore_array(value, sample_input, name),
    "list" = if (is.list(value) || is.atomic(value)) as.list(value) else stop("the input is not the JSON of a list")
  )
}

restore_array <- function(value, sample_input, name) {
  if (length(dim(sample_input)) == 1 && is.null(dim(value)) && is.atomic(value)) dim(value) <- length(value)
  if (!is.atomic(value) || length(dim(value)) != length(dim(sample_input))) {
    stop("the input is not the JSON of ", if (name == "matrix") "a matrix" else "an array", " with ",
      length(dim(sample_input)), " dimensions", call. = FALSE)
  }
  as_stored(value, sample_input)
}

restore_data_frame <- function(value, sample_input) {
  if (!is.data.frame(value)) stop("the input is not the JSON of a data frame", call. = FALSE)
  missing <- setdiff(names(sample_input), names(value))
  if (length(missing)) stop("the data frame has no column ", paste(missing, collapse = ", "), call. = FALSE)
  for (column in names(sample_input)) value[[column]] <- as_stored(value[[column]], sample_input[[column]])
  value
}

# JSON knows neither integers nor factors nor dates: the sample says what a value was.
as_stored <- function(value, like) {
  if (is.factor(like)) return(factor(value, levels = levels(like), ordered = is.ordered(like)))
  if (inherits(like, "Date")) return(as.Date(value))
  if (inherits(like, "POSIXt")) return(as.POSIXct(value, tz = "UTC", tryFormats = c("%Y-%m-%dT%H:%M:%OSZ", "%Y-%m-%d %H:%M:%OS")))
  if (is.numeric(value) && is.double(like)) storage.mode(value) <- "double"
  if (is.logical(value) && all(is.na(value)) && is.atomic(like)) storage.mode(value) <- storage.mode(like)
  value
}
