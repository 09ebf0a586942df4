// A mapped file that is cut short while it is in use: the page that is no longer there cannot be
// given, and the system sends SIGBUS. Nothing can be saved then; but it can be said.
#include <stddef.h>

#include "threads.h"

#if defined(_WIN32)

EXPORT void guard_mapping(const char*, int) {}

#else

#include <signal.h>
#include <string.h>
#include <unistd.h>

namespace {

char message[512];
int exit_code;

void say_and_leave(int) {
    size_t left = strlen(message);
    const char* from = message;
    for (ssize_t written; left && (written = write(STDERR_FILENO, from, left)) > 0; from += written) left -= written;
    _exit(exit_code);
}

}  // namespace

// From now on SIGBUS writes `text` (up to 511 bytes) to stderr and ends the process with `code`.
EXPORT void guard_mapping(const char* text, int code) {
    strncpy(message, text, sizeof message - 1);
    exit_code = code;
    struct sigaction action = {};
    action.sa_handler = say_and_leave;
    sigaction(SIGBUS, &action, NULL);
}

#endif
