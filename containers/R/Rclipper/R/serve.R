# The program of a replica: its configuration is in the environment, as docs/writing-a-container.md has it.

# Serve a Clipper model
serve_model <- function() {
  options(warn = 1)
  config <- read_config()
  model <- tryCatch(read_folder(config$model_path), error = function(error) {
    give_up(paste0("Could not load the model in ", config$model_path, ". ", conditionMessage(error)), EXIT_MODEL_NOT_LOADED)
  })
  type <- input_type_of(model$sample_input)
  if (!config$input_type %in% type_words[[type$clipper_type]]) {
    give_up(paste0(
      "This model was built for inputs of type \"", type$clipper_type, "\", and deployed for \"", config$input_type,
      "\". Deploy it with the command that build_model printed."
    ))
  }
  set_ready(config, FALSE)
  run_session(model, config, new_metrics())
}

EXIT_MODEL_NOT_LOADED <- 3L

read_config <- function() {
  host <- optional("CLIPPER_IP", "127.0.0.1")
  list(
    name = required("CLIPPER_MODEL_NAME"),
    version = required("CLIPPER_MODEL_VERSION"),
    model_path = required("CLIPPER_MODEL_PATH"),
    input_type = tolower(trimws(optional("CLIPPER_INPUT_TYPE", "doubles"))),
    host = host,
    port = port("CLIPPER_PORT", 7000L),
    metric_port = port("CLIPPER_METRIC_PORT", 1390L),
    # Beside a frontend on this machine alone, the metrics are for this machine too.
    metric_host = if (host %in% c("127.0.0.1", "localhost")) "127.0.0.1" else "*",
    ready_file = Sys.getenv("CLIPPER_READY_FILE"),
    replica_id = optional("CLIPPER_REPLICA_ID", random_id())
  )
}

optional <- function(name, default) {
  value <- Sys.getenv(name)
  if (nzchar(value)) value else default
}

required <- function(name) {
  value <- Sys.getenv(name)
  if (nzchar(value)) return(value)
  give_up(paste0(
    "The environment variable ", name, " is not set. Clipper's container managers set it; by hand, give it a value."
  ))
}

# A port number; 0 if the variable is there and empty.
port <- function(name, default) {
  value <- trimws(Sys.getenv(name, unset = as.character(default)))
  number <- suppressWarnings(as.integer(if (nzchar(value)) value else "0"))
  if (is.na(number) || number < 0 || number > 65535) give_up(paste0(name, "=", value, " is not a port number."))
  number
}

# The random numbers are not R's: a model that sets their seed would give all its replicas the same id.
random_id <- function() {
  source <- file("/dev/urandom", "rb", raw = TRUE)
  on.exit(close(source))
  bytes <- readBin(source, "raw", 16)
  paste(format(bytes), collapse = "")
}

give_up <- function(reason, status = 1L) {
  cat("This model container cannot start. ", reason, "\n", sep = "", file = stderr())
  quit(save = "no", status = status)
}

set_ready <- function(config, ready) {
  if (!nzchar(config$ready_file)) return()
  if (ready) cat("READY", file = config$ready_file) else unlink(config$ready_file)
}
