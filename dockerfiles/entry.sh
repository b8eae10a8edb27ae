#!/bin/sh
# The first process of a container: starts a program, asks it to stop when asked to, collects orphans, ends as it ends.
# Python cannot be process 1 itself: until it has handlers for them, that process ignores the signals that should end it.
if [ $# = 0 ]; then
    echo "This image has no program to start. Name one: CMD in a Dockerfile, or at the end of docker run." >&2
    exit 2
fi

program= stopping=
trap 'stopping=yes; [ -z "$program" ] || kill -TERM "$program" 2>/dev/null' TERM INT
exec 3<&0 # a shell gives /dev/null to what it starts in the background
"$@" <&3 3<&- &
program=$!
[ -z "$stopping" ] || kill -TERM "$program" 2>/dev/null

while :; do
    wait "$program"
    status=$?
    kill -0 "$program" 2>/dev/null || exit "$status" # alive: only the waiting was interrupted, by a signal
done
