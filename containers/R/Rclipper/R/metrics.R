# The container's metrics, of the same names as those of Clipper's other containers, and their HTTP server.

LATENCY_BUCKETS_MS <- c(5, 10, 20, 35, 50, 75, 100, 150, 200, 250, 300, 400, 500)
OVERHEAD_BUCKETS_MS <- c(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

new_metrics <- function() {
  metrics <- new.env()
  metrics$counters <- c(clipper_mc_pred = 0, clipper_mc_inputs = 0, clipper_mc_errors = 0)
  metrics$help <- c(
    clipper_mc_pred = "Batches answered", clipper_mc_inputs = "Inputs answered",
    clipper_mc_errors = "Inputs answered with an error"
  )
  metrics$times <- list(
    clipper_mc_recv_time_ms = new_times("Receiving a batch, ms", OVERHEAD_BUCKETS_MS),
    clipper_mc_parse_time_ms = new_times("Making the model's inputs of a batch, ms", OVERHEAD_BUCKETS_MS),
    clipper_mc_handle_time_ms = new_times("Predicting a batch, ms", LATENCY_BUCKETS_MS),
    clipper_mc_end_to_end_latency_ms = new_times("All of a batch, ms", LATENCY_BUCKETS_MS)
  )
  metrics
}

new_times <- function(help, bounds) list(help = help, bounds = bounds, counts = numeric(length(bounds) + 1), sum = 0)

# Counts a batch; times are those of the clock `now()`.
observe_batch <- function(metrics, received, started, predicting, done, failed) {
  metrics$counters <- metrics$counters + c(1, length(failed), sum(failed))
  seconds <- c(started - received, predicting - started, done - predicting, done - received)
  for (i in seq_along(seconds)) {
    times <- metrics$times[[i]]
    millis <- max(0, seconds[[i]] * 1000)
    bucket <- findInterval(millis, times$bounds, left.open = TRUE) + 1
    times$counts[[bucket]] <- times$counts[[bucket]] + 1
    times$sum <- times$sum + millis
    metrics$times[[i]] <- times
  }
}

# In Prometheus' text format.
render_metrics <- function(metrics) {
  number <- function(x) ifelse(x == round(x), sprintf("%.1f", x), format(x, digits = 15))
  counters <- sprintf(
    "# HELP %1$s_total %2$s\n# TYPE %1$s_total counter\n%1$s_total %3$s",
    names(metrics$counters), metrics$help, vapply(metrics$counters, number, "")
  )
  histograms <- vapply(names(metrics$times), function(name) {
    times <- metrics$times[[name]]
    cumulative <- cumsum(times$counts)
    bounds <- c(vapply(times$bounds, number, ""), "+Inf")
    paste(c(
      paste("# HELP", name, times$help), paste("# TYPE", name, "histogram"),
      sprintf('%s_bucket{le="%s"} %s', name, bounds, vapply(cumulative, number, "")),
      paste0(name, "_count ", number(sum(times$counts))), paste0(name, "_sum ", number(times$sum))
    ), collapse = "\n")
  }, "")
  paste0(paste(c(counters, histograms), collapse = "\n"), "\n")
}

# --- HTTP ---

# A ZeroMQ socket for plain TCP, so that one poll waits for batches and for Prometheus. NULL if the port is taken.
listen_for_metrics <- function(context, host, port) {
  socket <- pbdZMQ::zmq.socket(context, pbdZMQ::ZMQ.ST()$STREAM)
  set_options(socket, list(STREAM_NOTIFY = 0L, LINGER = 1000L))
  bound <- tryCatch(
    suppressWarnings(pbdZMQ::zmq.bind(socket, sprintf("tcp://%s:%d", host, port))),
    error = function(error) -1L
  )
  if (is.integer(bound) && bound == -1L) {
    log_line("WARNING", "No metrics: cannot listen on port ", port, ".")
    pbdZMQ::zmq.close(socket)
    return(NULL)
  }
  socket
}

# Answers one request: the first bytes that a client sends are taken for all of it. The client closes the connection,
# as it is told: ZeroMQ would not wait until the answer is sent.
serve_metrics <- function(socket, metrics) {
  parts <- pbdZMQ::zmq.recv.multipart(socket, unserialize = FALSE)
  if (length(parts) != 2 || !length(parts[[2]])) return()
  request <- suppressWarnings(rawToChar(parts[[2]][parts[[2]] != 0]))
  found <- grepl("^GET /(metrics)?[? ]", request, useBytes = TRUE)
  body <- if (found) render_metrics(metrics) else "The metrics are at /metrics.\n"
  head <- sprintf(
    "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
    if (found) "200 OK" else "404 Not Found", nchar(body, "bytes")
  )
  send_frames(socket, list(parts[[1]], charToRaw(paste0(head, body))))
}
