/* tests/evidence/hang_thread.c - a library to preload: a thread that gets SIGUSR2 (tgkill) does nothing any more, while the others
 * of its process go on. */
#include <signal.h>
#include <unistd.h>

static void hang(int number)
{
    for (;;)
        pause();
}

__attribute__((constructor)) static void prepare(void)
{
    struct sigaction action = {.sa_handler = hang};
    sigaction(SIGUSR2, &action, NULL);
}
