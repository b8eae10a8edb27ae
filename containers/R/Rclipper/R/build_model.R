# build_model: from a function of the user's session to an image that a container manager can start.

# Build a Clipper model of an R function
build_model <- function(model_name, model_version, prediction_function, sample_input, model_registry = NULL,
                        container_manager = c("docker", "process"), base_image = NULL) {
  model_name <- check_text(model_name, "model_name")
  model_version <- check_text(if (is.numeric(model_version)) format(model_version) else model_version, "model_version")
  container_manager <- match.arg(container_manager)
  image <- paste0(model_name, ":", model_version)
  if (!is.null(model_registry)) image <- paste0(check_text(model_registry, "model_registry"), "/", image)
  python <- find_python()

  folder <- tempfile("clipper-model-")
  on.exit(unlink(folder, recursive = TRUE))
  save_model(folder, prediction_function, sample_input)
  package_model(python, folder, image, container_manager, model_registry, base_image)

  command <- sprintf(
    'conn.deploy_model("%s", "%s", "%s", "%s", num_replicas=1)',
    model_name, model_version, input_type_of(sample_input)$clipper_type, image
  )
  cat(
    "Done!\nTo deploy this model, execute the following command from a connected ClipperConnection object `conn`:\n",
    command, "\n", sep = ""
  )
  invisible(image)
}

# Save an R function as the folder of a Clipper model
save_model <- function(folder, prediction_function, sample_input) {
  if (!is.function(prediction_function)) {
    stop("prediction_function is ", describe_kind(prediction_function), ". It should be a function that takes a list ",
      "of inputs and returns a list of outputs of the same length.", call. = FALSE)
  }
  input_type_of(sample_input)
  works <- FALSE
  on.exit(if (!works) unlink(folder, recursive = TRUE))
  write_folder(folder, prediction_function, sample_input)
  try_function(prediction_function, list(sample_input, sample_input)) # once it is saved: it may change what it uses
  check_in_fresh_session(folder)
  works <- TRUE
  invisible(folder)
}

# The function must answer a batch of two.
try_function <- function(prediction_function, inputs) {
  outputs <- tryCatch(
    prediction_function(inputs),
    error = function(error) {
      stop("prediction_function failed on a list of two sample inputs: ", conditionMessage(error), call. = FALSE)
    }
  )
  tryCatch(
    encode_outputs(outputs, length(inputs)),
    error = function(error) {
      stop("prediction_function was given a list of two sample inputs, and ", conditionMessage(error), call. = FALSE)
    }
  )
}

# Objects that the function needs and that were not captured are missing there, and R names them.
check_in_fresh_session <- function(folder) {
  code <- sprintf(
    ".libPaths(%s); Rclipper:::check_model(%s)", r_literal(.libPaths()), r_literal(normalizePath(folder))
  )
  said <- run(rscript(), c("--vanilla", "-e", code))
  if (said$status != 0) {
    stop("The saved model does not work in a fresh R session, which is where it will run:\n",
      paste(utils::tail(said$lines, 20), collapse = "\n"), call. = FALSE)
  }
}

# --- the Python side, which speaks to Docker and knows where images of the process manager are ---

find_python <- function() {
  candidates <- c(getOption("Rclipper.python"), Sys.which(c("python3", "python")))
  for (python in unique(candidates[nzchar(candidates)])) {
    if (run(python, c("-c", "import clipper_admin.rclipper"))$status == 0) return(python)
  }
  stop("No Python that has clipper_admin was found. Install it ('pip install clipper_admin'), or name the Python ",
    "that has it: options(Rclipper.python = \"/path/to/python\").",
    if (length(candidates)) paste0(" Tried: ", paste(unique(candidates[nzchar(candidates)]), collapse = ", "), "."),
    call. = FALSE)
}

package_model <- function(python, folder, image, container_manager, model_registry, base_image) {
  packages <- readRDS(file.path(folder, "libs.rds"))
  arguments <- c(
    "-m", "clipper_admin.rclipper", container_manager, folder, image,
    if (!is.null(model_registry)) "--push",
    if (!is.null(base_image)) c("--base-image", check_text(base_image, "base_image")),
    if (container_manager == "docker") paste0("--package=", packages[!is_base_package(packages)], recycle0 = TRUE),
    if (container_manager == "process") c("--serve", as.character(jsonlite::toJSON(serve_command())))
  )
  said <- run(python, arguments, show = TRUE)
  if (said$status != 0) stop("The model could not be packaged: see the lines above.", call. = FALSE)
}

# How a replica of this model is started on this machine, with the packages that this session sees.
serve_command <- function() {
  c(
    "/bin/sh", system.file("serve.sh", package = "Rclipper", mustWork = TRUE), rscript(), "--vanilla", "-e",
    sprintf(".libPaths(%s); Rclipper::serve_model()", r_literal(.libPaths()))
  )
}

rscript <- function() file.path(R.home("bin"), "Rscript")

# Runs a program without a shell between: its exit status, and what it printed.
run <- function(program, arguments, show = FALSE) {
  output <- tempfile()
  on.exit(unlink(output))
  target <- if (show) "" else output
  status <- suppressWarnings(system2(program, shQuote(arguments), stdout = target, stderr = target))
  list(status = status, lines = if (file.exists(output)) readLines(output, warn = FALSE))
}

# A character vector as R code.
r_literal <- function(texts) paste0("c(", paste(encodeString(texts, quote = "'"), collapse = ", "), ")")

check_text <- function(value, what) {
  if (!is.character(value) || length(value) != 1 || is.na(value) || !nzchar(value)) {
    stop(what, " is ", describe_kind(value), ". It should be a character vector of length 1.", call. = FALSE)
  }
  value
}
