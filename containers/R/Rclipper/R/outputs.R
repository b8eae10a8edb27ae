# Turns the result of a function into the texts of a response.

# One text for each input, or an error that says what is wrong with what was returned.
encode_outputs <- function(outputs, count) {
  if (is.atomic(outputs) && !is.null(outputs)) outputs <- as.list(outputs)
  if (!is.list(outputs) || is.data.frame(outputs)) {
    stop("returned ", describe_kind(outputs), ", not a list with an output for each input", call. = FALSE)
  }
  if (length(outputs) != count) {
    stop("returned ", length(outputs), " outputs for ", count, " inputs", call. = FALSE)
  }
  vapply(outputs, encode_output, "", USE.NAMES = FALSE)
}

encode_output <- function(output) {
  is_string <- is.character(output) && length(output) == 1 && is.null(dim(output)) && !is.na(output)
  enc2utf8(if (is_string) as.vector(output) else as.character(jsonlite::toJSON(output, digits = NA)))
}
