# One connection to a query frontend: announce, heartbeat, time out, reconnect, answer, drain.
#
# R has one thread. While the model computes nothing is sent: a container that has a batch is not expected to speak.

HEARTBEAT_SECONDS <- 1
SILENCE_SECONDS <- 5
REFUSED_RETRY_SECONDS <- 5
DRAIN_SECONDS <- 9

SOCKET_OPTIONS <- list(
  LINGER = 0L,
  IMMEDIATE = 1L, # what is sent while nobody is connected is lost at once, not kept for a frontend that never asked for it
  RECONNECT_IVL = 50L, RECONNECT_IVL_MAX = 200L,
  HEARTBEAT_IVL = 1000L, HEARTBEAT_TIMEOUT = 5000L, HEARTBEAT_TTL = 5000L,
  TCP_KEEPALIVE = 1L
)

# Serves until the process is asked to stop (SIGINT) and the frontend let it go.
run_session <- function(model, config, metrics) {
  context <- pbdZMQ::zmq.ctx.new()
  self <- new.env()
  self$config <- config
  self$type <- input_type_of(model$sample_input)
  self$address <- sprintf("tcp://%s:%d", config$host, config$port)
  self$context <- context
  self$stop_requested <- Inf
  self$registered <- self$finished <- self$draining <- self$silence_reported <- FALSE
  self$announce_after <- 0
  self$refusals <- character()
  self$requests <- list()
  connect(self)
  metric_socket <- if (config$metric_port) listen_for_metrics(context, config$metric_host, config$metric_port)
  log_line("INFO", "Serving ", config$name, ":", config$version, ", input type ", self$type$clipper_type, ", for ",
    self$address, ".")

  # A signal only leaves a note: what runs goes on.
  withCallingHandlers(
    while (!self$finished) {
      tend(self)
      if (self$finished) break
      if (!length(self$requests)) wait(self, metric_socket, metrics)
      if (length(self$requests)) answer(self, model, metrics)
    },
    interrupt = function(condition) {
      self$stop_requested <- min(self$stop_requested, now())
      tryInvokeRestart("resume")
    }
  )
  set_ready(config, FALSE)
  set_options(self$socket, list(LINGER = 1000L))
  pbdZMQ::zmq.close(self$socket)
  if (!is.null(metric_socket)) pbdZMQ::zmq.close(metric_socket)
  pbdZMQ::zmq.ctx.destroy(context)
}

# --- the connection ---

connect <- function(self) {
  self$socket <- pbdZMQ::zmq.socket(self$context, pbdZMQ::ZMQ.ST()$DEALER)
  set_options(self$socket, SOCKET_OPTIONS)
  pbdZMQ::zmq.connect(self$socket, self$address)
  self$heard_at <- now()
  self$heartbeat_due <- 0
  self$heartbeat_unsent <- FALSE
}

tend <- function(self) {
  time <- now()
  if (is.finite(self$stop_requested)) drain(self, time)
  if (time - self$heard_at > SILENCE_SECONDS) reconnect(self)
  # The clock may have been set back.
  if (time >= self$heartbeat_due || self$heartbeat_due - time > HEARTBEAT_SECONDS) heartbeat(self)
}

reconnect <- function(self) {
  if (!self$silence_reported) {
    self$silence_reported <- TRUE
    log_line("WARNING", "Heard nothing from a query frontend at ", self$address, " for ", SILENCE_SECONDS,
      " s. Trying on: is it up, and is this its address?")
  }
  self$registered <- FALSE
  pbdZMQ::zmq.close(self$socket)
  connect(self)
}

# Until a message came, a heartbeat can or must be sent, or somebody asks for metrics.
wait <- function(self, metric_socket, metrics) {
  events <- pbdZMQ::ZMQ.PO()
  wanted <- if (self$heartbeat_unsent) events$POLLIN + events$POLLOUT else events$POLLIN
  seconds <- min(self$heartbeat_due - now(), HEARTBEAT_SECONDS)
  sockets <- c(self$socket, metric_socket)
  pbdZMQ::zmq.poll(sockets, c(wanted, if (!is.null(metric_socket)) events$POLLIN), max(0L, as.integer(ceiling(seconds * 1000))))
  Sys.sleep(0) # a signal ends the poll, and R notices it here
  ready <- vapply(seq_along(sockets), function(i) pbdZMQ::zmq.poll.get.revents(i), 0L)
  if (bitwAnd(ready[[1]], events$POLLIN)) receive(self)
  if (self$heartbeat_unsent && bitwAnd(ready[[1]], events$POLLOUT)) heartbeat(self)
  if (length(ready) == 2 && bitwAnd(ready[[2]], events$POLLIN)) {
    tryCatch(serve_metrics(metric_socket, metrics), error = function(error) {
      log_line("WARNING", "Could not answer a request for metrics: ", conditionMessage(error))
    })
  }
}

# --- messages ---

# Whether there was a frontend to send to.
send <- function(self, frames) {
  sent <- can_send(self$socket)
  if (sent) send_frames(self$socket, frames) else self$registered <- FALSE
  if (!sent) self$heartbeat_unsent <- TRUE
  sent
}

heartbeat <- function(self) {
  self$heartbeat_due <- now() + HEARTBEAT_SECONDS
  if (send(self, encode_heartbeat())) self$heartbeat_unsent <- FALSE
}

receive <- function(self) {
  frames <- pbdZMQ::zmq.recv.multipart(self$socket, unserialize = FALSE)
  self$heard_at <- now()
  message <- tryCatch(decode_message(frames), error = function(error) {
    log_line("WARNING", "Dropped a message that makes no sense: ", conditionMessage(error), ".")
    list(kind = "nonsense")
  })
  switch(message$kind,
    "request" = {
      become_registered(self)
      self$requests <- c(self$requests, list(c(message, received = self$heard_at)))
    },
    "known" = become_registered(self),
    "who are you" = become_unknown(self),
    "refused" = become_refused(self, message$reason),
    "go" = self$finished <- self$draining
  )
}

# --- what the frontend knows of us ---

become_unknown <- function(self) {
  self$registered <- FALSE
  self$requests <- list()
  if (self$draining) {
    self$finished <- TRUE
  } else if (self$heard_at >= self$announce_after) {
    self$announce_after <- self$heard_at + HEARTBEAT_SECONDS
    config <- self$config
    send(self, encode_metadata(config$name, config$version, self$type$clipper_type, config$replica_id))
    heartbeat(self)
  }
}

become_registered <- function(self) {
  self$silence_reported <- FALSE
  if (self$registered) return()
  self$registered <- TRUE
  self$refusals <- character()
  log_line("INFO", "Registered at ", self$address, " as replica ", self$config$replica_id, ".")
  set_ready(self$config, TRUE)
}

become_refused <- function(self, reason) {
  self$registered <- FALSE
  self$announce_after <- self$heard_at + REFUSED_RETRY_SECONDS
  if (reason %in% self$refusals) return()
  self$refusals <- c(self$refusals, reason)
  log_line("ERROR", "The query frontend at ", self$address, " refuses this replica: ", reason)
}

# --- batches ---

answer <- function(self, model, metrics) {
  request <- self$requests[[1]]
  self$requests <- self$requests[-1]
  # A signal waits until the batch is answered.
  batch <- suspendInterrupts(answer_batch(model, request))
  observe_batch(metrics, request$received, batch$started, batch$predicting, now(), batch$failed)
  self$heard_at <- now() # while the model computed nobody listened: that was our silence, not the frontend's
  if (!send(self, encode_response(request$message_id, batch$outputs, batch$failed))) {
    log_line("WARNING", "The frontend that asked is gone: dropped the answer to ", length(batch$outputs), " inputs.")
  }
}

# --- leaving ---

# Say goodbye, once; then wait for the answer, but not for ever.
drain <- function(self, time) {
  if (self$draining) {
    self$finished <- self$finished || time >= self$stop_requested + DRAIN_SECONDS
    return()
  }
  self$draining <- TRUE
  log_line("INFO", "Asked to stop.")
  if (!(self$registered && send(self, encode_drain()))) self$finished <- TRUE
}

# --- sockets, clock, log ---

set_options <- function(socket, options) {
  for (name in names(options)) pbdZMQ::zmq.setsockopt(socket, pbdZMQ::ZMQ.SO()[[name]], options[[name]])
}

can_send <- function(socket) {
  pbdZMQ::zmq.poll(c(socket), pbdZMQ::ZMQ.PO()$POLLOUT, 0L)
  bitwAnd(pbdZMQ::zmq.poll.get.revents(1), pbdZMQ::ZMQ.PO()$POLLOUT) != 0
}

send_frames <- function(socket, frames) {
  flags <- pbdZMQ::ZMQ.SR()
  last <- length(frames)
  for (i in seq_len(last)) {
    more <- if (i < last) flags$SNDMORE else 0L
    pbdZMQ::zmq.msg.send(frames[[i]], socket, flags = flags$DONTWAIT + more, serialize = FALSE)
  }
}

now <- function() as.numeric(Sys.time())

log_line <- function(level, ...) {
  cat(format(Sys.time(), "%y-%m-%d:%H:%M:%S"), " ", formatC(level, width = -8), " [Rclipper] ", ..., "\n",
    sep = "", file = stderr())
}
