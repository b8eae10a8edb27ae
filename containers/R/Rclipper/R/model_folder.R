# The folder of a model:
#
#   fn.rds               the function
#   sample.rds           the sample input, which says what inputs are
#   libs.rds             the packages to attach
#   fn_dep_<n>.rds       a function that it uses: list(name, value)
#   input_dep_<n>.rds    another object that it uses: list(name, value)
#   obj_files_map.rds    the files that it uses: c(<path> = "file_1.csv", <path> = "dir_2")
#   file_<n>*, dir_<n>   these files

write_folder <- function(folder, prediction_function, sample_input) {
  captured <- capture(prediction_function)
  dir.create(folder, recursive = TRUE, showWarnings = FALSE)
  save <- function(value, name) saveRDS(value, file.path(folder, paste0(name, ".rds")))

  save(captured$packages, "libs")
  cat("Serialized list of dependent libraries: ", paste(captured$packages, collapse = ", "), "\n", sep = "")
  is_function <- vapply(captured$objects, is.function, NA)
  save_dependencies(captured$objects[is_function], "fn_dep", save)
  save_dependencies(captured$objects[!is_function], "input_dep", save)
  save(copy_files(captured$files, folder), "obj_files_map")
  save(sample_input, "sample")
  save(prediction_function, "fn")
  cat("Serialized model function!\n")
}

save_dependencies <- function(objects, prefix, save) {
  for (i in seq_along(objects)) save(list(name = names(objects)[[i]], value = objects[[i]]), paste0(prefix, "_", i))
  if (length(objects)) cat("Serialized what it uses: ", paste(names(objects), collapse = ", "), "\n", sep = "")
}

copy_files <- function(paths, folder) {
  names <- vapply(seq_along(paths), function(i) {
    if (dir.exists(paths[[i]])) return(paste0("dir_", i))
    extension <- tools::file_ext(paths[[i]])
    paste0("file_", i, if (nzchar(extension)) paste0(".", extension))
  }, "")
  for (i in seq_along(paths)) {
    target <- file.path(folder, names[[i]])
    if (dir.exists(paths[[i]])) {
      dir.create(target)
      copied <- file.copy(list.files(paths[[i]], full.names = TRUE, all.files = TRUE, no.. = TRUE), target, recursive = TRUE)
    } else {
      copied <- file.copy(paths[[i]], target)
    }
    if (!all(copied)) stop("The file '", paths[[i]], "', which the model uses, could not be copied.", call. = FALSE)
  }
  if (length(paths)) cat("Copied files that it names: ", paste(paths, collapse = ", "), "\n", sep = "")
  stats::setNames(names, paths)
}

# The function and its sample input, in a session where all that it needs is in its place.
read_folder <- function(folder) {
  if (!file.exists(file.path(folder, "fn.rds"))) {
    stop("There is no R model in '", folder, "': the file fn.rds is missing.", call. = FALSE)
  }
  read <- function(name) readRDS(file.path(folder, name))
  attach_packages(read("libs.rds"))
  for (name in list.files(folder, "^(fn|input)_dep_[0-9]+\\.rds$")) {
    dependency <- read(name)
    assign(dependency$name, dependency$value, envir = globalenv())
  }
  place_files(read("obj_files_map.rds"), normalizePath(folder))
  list(predict = read("fn.rds"), sample_input = read("sample.rds"))
}

attach_packages <- function(packages) {
  missing <- missing_packages(packages)
  if (length(missing)) {
    stop("The model needs R packages that are not installed here: ", paste(missing, collapse = ", "), call. = FALSE)
  }
  for (package in packages) suppressPackageStartupMessages(library(package, character.only = TRUE))
}

missing_packages <- function(packages) {
  packages[!nzchar(vapply(packages, function(package) system.file(package = package), ""))]
}

# Code finds files by their paths relative to the working directory: there it gets one of its own.
place_files <- function(files, folder) {
  if (!length(files)) return()
  directory <- tempfile("model-files-")
  for (path in names(files)) {
    target <- file.path(directory, path)
    dir.create(dirname(target), recursive = TRUE, showWarnings = FALSE)
    file.symlink(file.path(folder, files[[path]]), target)
  }
  setwd(directory)
}

# Whether the model in a folder can be loaded here and answers its own sample, sent as Clipper sends it.
check_model <- function(folder = Sys.getenv("CLIPPER_MODEL_PATH")) {
  options(warn = 1)
  model <- read_folder(folder)
  type <- input_type_of(model$sample_input)
  input <- decode_input(encode_input(model$sample_input, type), model$sample_input, type)
  encode_outputs(model$predict(list(input, input)), 2)
  invisible()
}

# Installs what the model needs and the image lacks, from Debian's archive. For the build of an image, as root.
install_packages <- function(packages) {
  missing <- missing_packages(packages)
  if (!length(missing)) return(invisible())
  apt <- function(...) system2("apt-get", c("-qq", ...), stdout = FALSE)
  apt("update")
  for (package in missing) apt("install", "-y", "--no-install-recommends", paste0("r-cran-", tolower(package)))
  unlink("/var/lib/apt/lists", recursive = TRUE)
  if (length(missing <- missing_packages(missing))) {
    stop("Debian has no package of ", paste(missing, collapse = ", "), ", which the model needs. Build an image that ",
      "has it on Clipper's, and name it with base_image=.", call. = FALSE)
  }
}
