# Version 4 of the RPC (docs/wire-protocol.md) as values: lists of raw vectors in and out. Numbers are little endian.

RPC_VERSION <- 4L
NEW_CONTAINER <- 0L
HEARTBEAT <- 2L
DRAIN <- 3L
REFUSED <- 4L
REQUEST_METADATA <- 1L

EMPTY <- raw(0)

u32 <- function(number) writeBin(as.integer(number), raw(), size = 4, endian = "little")
u64 <- function(numbers) writeBin(as.integer(numbers), raw(), size = 8, endian = "little")
text_frame <- function(text) charToRaw(enc2utf8(text))

encode_heartbeat <- function() list(EMPTY, u32(HEARTBEAT))
encode_drain <- function() list(EMPTY, u32(DRAIN))

encode_metadata <- function(name, version, clipper_type, replica_id) {
  c(
    list(EMPTY, u32(NEW_CONTAINER)), lapply(c(name, version, wire_types[[clipper_type]]), text_frame),
    list(u32(RPC_VERSION), text_frame(replica_id))
  )
}

# `message_id` is that of the request, in bytes; where `failed`, the output says what went wrong.
encode_response <- function(message_id, outputs, failed) {
  outputs <- lapply(outputs, text_frame)
  header <- c(message_id, u32(length(outputs)), u64(lengths(outputs)), as.raw(failed))
  list(header, as.raw(unlist(outputs)))
}

# Decodes a message of the frontend to a list with `kind`. Anything else is an error.
decode_message <- function(frames) {
  if (length(frames) && length(frames[[1]])) return(decode_request(frames))
  if (length(frames) < 3) stop("a message begins with an empty frame, the RPC version and its type")
  type <- read_u32(frames[[3]])
  if (type == HEARTBEAT && length(frames) == 4) {
    return(list(kind = if (read_u32(frames[[4]]) == REQUEST_METADATA) "who are you" else "known"))
  }
  if (type == DRAIN) return(list(kind = "go"))
  if (type == REFUSED) return(list(kind = "refused", reason = if (length(frames) > 3) as_text(frames[[4]]) else ""))
  stop("unknown message of type ", type)
}

decode_request <- function(frames) {
  header <- frames[[1]]
  if (length(frames) != 2 || length(header) < 8 || length(header) %% 8) stop("a request is a header and its data")
  sizes <- readBin(header[-(1:8)], "integer", length(header) %/% 8 - 1, size = 8, endian = "little")
  data <- frames[[2]]
  if (length(data) != sum(sizes)) stop("the sizes announced in a request are not those of its inputs")
  starts <- cumsum(sizes) - sizes
  inputs <- lapply(seq_along(sizes), function(i) data[starts[[i]] + seq_len(sizes[[i]])])
  list(kind = "request", message_id = header[1:4], wire_type = read_u32(header[5:8]), inputs = inputs)
}

read_u32 <- function(frame) {
  if (length(frame) != 4) stop("a number of ", length(frame), " bytes, not 4")
  readBin(frame, "integer", 1, size = 4, endian = "little")
}
