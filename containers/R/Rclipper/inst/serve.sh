#!/bin/sh
# Starts a program, and makes of SIGTERM the SIGINT on which R can finish what it does. Ends as the program ends.
[ -w "${TMPDIR:-/tmp}" ] || export TMPDIR=/dev/shm # R does not start without a folder for temporary files

program= stopping=
trap 'stopping=yes; [ -z "$program" ] || kill -INT "$program" 2>/dev/null' TERM INT
"$@" &
program=$!
[ -z "$stopping" ] || kill -INT "$program" 2>/dev/null

while :; do
    wait "$program"
    status=$?
    kill -0 "$program" 2>/dev/null || exit "$status" # alive: only the waiting was interrupted, by a signal
done
