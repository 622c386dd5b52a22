/* proto/coordinators.h - where the run's coordinator may be: what --coord says.
 *
 * Either addresses (tcp://HOST:PORT, with commas between them), which are tried in turn; or a path with a slash in it, of a file
 * that has such addresses, apart by commas or white space. The file is read anew for each attempt: RUN/endpoint is one, and so is whatever
 * moves an address along when the coordinator moves. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "proto/socket.h"

struct coordinators {
    const char *given; /* borrowed */
    bool permitted;    /* beyond this machine */
    bool file;
    unsigned turn; /* attempts so far */
};

/* Checks the addresses' syntax, and that those beyond this machine are `permitted` (wire_check_endpoint). A file need not be there
 * yet. ret_first: SOCKET_ENDPOINT_MAX bytes; the first address, "" while there is none. -BL_EUSAGE. */
int coordinators_open(struct coordinators *c, const char *given, bool permitted, char *ret_first,
                      struct bl_error *err);
/* The address to try next. ret: SOCKET_ENDPOINT_MAX bytes, unchanged by a failure: the file has no usable address now. */
int coordinators_next(struct coordinators *c, char *ret, struct bl_error *err);
