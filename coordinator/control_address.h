/* coordinator/control_address.h - where both sides of control.h meet. */
#pragma once

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONTROL_NAME "control"

/* folder: the run folder, opened (O_PATH); it has to stay open for as long as the address is used. */
static inline void control_address(int folder, struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/" CONTROL_NAME, folder);
}
