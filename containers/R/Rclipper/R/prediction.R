# A batch through a model: the output of each input, or its error.

# An input that cannot be read, or that the function fails on, fails alone: the rest of the batch is answered.
answer_batch <- function(model, request) {
  started <- now()
  count <- length(request$inputs)
  outputs <- character(count)
  failed <- logical(count)
  type <- input_type_of(model$sample_input)
  fail <- function(which, error) {
    log_line("ERROR", "The model failed: ", describe_error(error), describe_call(error))
    outputs[which] <<- describe_error(error)
    failed[which] <<- TRUE
  }

  if (!identical(request$wire_type, wire_types[[type$clipper_type]])) {
    fail(seq_len(count), simpleError(paste0("this model takes ", type$clipper_type, ", and was sent something else")))
    return(list(outputs = outputs, failed = failed, started = started, predicting = now()))
  }
  inputs <- vector("list", count)
  for (i in seq_len(count)) {
    tryCatch(inputs[[i]] <- decode_input(request$inputs[[i]], model$sample_input, type), error = function(error) fail(i, error))
  }
  predicting <- now()
  readable <- which(!failed)
  if (length(readable)) {
    answer <- run_model(model, inputs[readable])
    if (is.character(answer)) {
      outputs[readable] <- answer
    } else if (length(readable) == 1) {
      fail(readable, answer)
    } else {
      for (i in readable) {
        alone <- run_model(model, inputs[i])
        if (is.character(alone)) outputs[i] <- alone else fail(i, alone)
      }
    }
  }
  list(outputs = outputs, failed = failed, started = started, predicting = predicting)
}

# The outputs as texts, or the error.
run_model <- function(model, inputs) {
  tryCatch(
    encode_outputs(model$predict(inputs), length(inputs)),
    error = function(error) {
      if (is.null(conditionCall(error)) && startsWith(conditionMessage(error), "returned ")) {
        error$message <- paste("the function", conditionMessage(error))
      }
      error
    }
  )
}

# `Type: message`, as it is shown to whoever asked.
describe_error <- function(error) {
  type <- setdiff(class(error), c("simpleError", "condition"))[[1]]
  type <- if (type == "error") "Error" else type
  substr(enc2utf8(paste0(type, ": ", conditionMessage(error))), 1, 2000)
}

describe_call <- function(error) {
  call <- conditionCall(error)
  if (is.null(call)) "" else paste0(" (in ", deparse(call, nlines = 1)[[1]], ")")
}
