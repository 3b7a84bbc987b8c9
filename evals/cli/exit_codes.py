"""What a command's exit code means."""

DONE = 0
# Some cells failed, a claim does not hold, or a bar was missed: the command's help says which.
SOME_FAILED = 1
# The user has to change something: the message says what.
USER = 2
INTERRUPTED = 130
