# Finds what a function needs beyond itself: objects of the user's session, packages, files.
#
# A closure takes its own environment along when it is saved, but not the global environment: what it uses of that is
# found by name with codetools, and so on through the functions that it finds.

# A list of `objects` (by name), `packages` (in the order in which to attach them) and `files` (relative paths).
capture <- function(prediction_function) {
  objects <- list()
  packages <- character()
  strings <- character()
  seen <- list()

  visit <- function(value) {
    if (is.function(value)) {
      visit_function(value)
    } else if (is.environment(value)) {
      if (!is_seen(value) && is_of_user(value)) for (element in as.list(value, all.names = TRUE)) visit(element)
    } else if (is.list(value) && !is.data.frame(value)) {
      for (element in unclass(value)) if (is.recursive(element)) visit(element)
    } else if (is.character(value) && length(value) == 1) {
      strings <<- c(strings, value)
    }
    visit_class(value)
  }

  visit_function <- function(fn) {
    home <- environment(fn)
    if (is.null(home) || is_seen(fn)) return()
    if (!is_of_user(home)) {
      packages <<- c(packages, package_of(home))
      return()
    }
    used <- codetools::findGlobals(fn, merge = FALSE)
    for (name in used$functions) visit_name(name, home, "function")
    for (name in used$variables) visit_name(name, home, "any")
    said <- constants_in(as.list(formals(fn)), body(fn))
    packages <<- c(packages, said$packages)
    strings <<- c(strings, said$strings)
  }

  visit_name <- function(name, from, mode) {
    place <- where_is(name, from, mode)
    if (is.null(place)) return() # such as a column's name inside with(): if not, the check in a fresh session says so
    if (!is_of_user(place)) {
      packages <<- c(packages, package_of(place))
    } else if (!identical(place, globalenv())) {
      visit(get(name, envir = place, mode = mode, inherits = FALSE)) # it travels with the closure
    } else if (!name %in% names(objects)) {
      value <- get(name, envir = place, mode = mode, inherits = FALSE)
      objects[name] <<- list(value)
      visit(value)
    }
  }

  # predict(model) works by the class of the model: by methods of packages that nothing names, or of the user.
  visit_class <- function(value) {
    if (!is.object(value)) return()
    packages <<- c(packages, attr(class(value), "package"), packages_with_methods_for(class(value)))
    for (class in class(value)) {
      methods <- ls(globalenv())[endsWith(ls(globalenv()), paste0(".", class))]
      for (name in methods) if (is.function(get(name, globalenv()))) visit_name(name, globalenv(), "function")
    }
  }

  is_seen <- function(value) {
    known <- any(vapply(seen, identical, NA, value))
    if (!known) seen[[length(seen) + 1]] <<- value
    known
  }

  visit(prediction_function)
  list(objects = objects, packages = in_order(packages), files = travelling_files(strings))
}

is_of_user <- function(environment) {
  top <- topenv(environment)
  identical(top, globalenv()) && !startsWith(environmentName(environment), "package:")
}

package_of <- function(environment) sub("^(package|imports|namespace):", "", environmentName(topenv(environment)))

where_is <- function(name, from, mode) {
  while (!identical(from, emptyenv())) {
    if (exists(name, envir = from, mode = mode, inherits = FALSE)) return(from)
    from <- parent.env(from)
  }
  NULL
}

# Returns none for classes of R itself, for which many packages have methods that the model does not need.
packages_with_methods_for <- function(classes) {
  base_methods <- ls(baseenv()[[".__S3MethodsTable__."]])
  is_of_base <- function(class) any(endsWith(base_methods, paste0(".", class)))
  classes <- Filter(Negate(is_of_base), classes)
  has_methods <- function(package) any(getNamespaceInfo(package, "S3methods")[, 2] %in% classes)
  found <- Filter(has_methods, setdiff(loadedNamespaces(), "base"))
  if (any(is_base_package(found))) character() else found
}

# Packages that code names itself (`package::function`, `library(package)`), and its strings.
constants_in <- function(...) {
  packages <- character()
  strings <- character()
  walk <- function(code) {
    if (is.character(code)) strings <<- c(strings, code)
    if (is.call(code) && length(code) > 1 && is.name(code[[1]])) {
      named <- code[[2]]
      if (as.character(code[[1]]) %in% c("::", ":::", "library", "require", "requireNamespace", "loadNamespace") &&
        (is.name(named) || is.character(named))) {
        packages <<- c(packages, as.character(named))
      }
    }
    if (is.call(code) || is.pairlist(code) || is.list(code)) {
      parts <- as.list(code)
      for (i in seq_along(parts)) if (!identical(parts[[i]], quote(expr = ))) walk(parts[[i]]) # x[, 1] has an empty part
    }
  }
  walk(list(...))
  list(packages = packages, strings = strings)
}

# Attached packages come in the order in which they mask each other.
in_order <- function(packages) {
  packages <- setdiff(unique(packages), c("", "R_GlobalEnv", "base", "Autoloads", "Rclipper"))
  unknown <- packages[!nzchar(vapply(packages, function(package) system.file(package = package), ""))]
  packages <- setdiff(packages, unknown)
  attached <- sub("^package:", "", rev(search()))
  c(setdiff(packages, attached), intersect(attached, packages))
}

is_base_package <- function(packages) {
  priority <- function(package) utils::packageDescription(package, fields = "Priority")
  vapply(packages, function(package) identical(priority(package), "base"), NA, USE.NAMES = FALSE)
}

# Files of the working directory that the code names. A folder must be named with a slash: "data" may be any word.
travelling_files <- function(strings) {
  strings <- unique(strings[!is.na(strings) & nzchar(strings) & nchar(strings) < 1000])
  paths <- strings[file.exists(strings) & (!dir.exists(strings) | grepl("/", strings, fixed = TRUE))]
  is_absolute <- grepl("^([/~\\\\]|[A-Za-z]:)", paths)
  leads_out <- grepl("(^|/)\\.\\.(/|$)", paths)
  named <- paths[(is_absolute | leads_out) & !dir.exists(paths)]
  if (length(named)) {
    warning("These files do not travel with the model, since only those below the working directory do: ",
      paste(named, collapse = ", "), call. = FALSE)
  }
  paths <- sub("/+$", "", sub("^(\\./+)+", "", paths[!is_absolute & !leads_out]))
  setdiff(unique(paths), c("", "."))
}
