/* common/notify.h - what a daemon tells the service manager that started it (systemd, Type=notify): that it is ready, what it is
 * doing, that its loop still runs, that it stops. A datagram to the Unix socket that NOTIFY_SOCKET names, lines KEY=VALUE
 * (sd_notify(3)). Without that variable nothing is sent. One thread, the loop's. */
#pragma once

/* Takes NOTIFY_SOCKET and WATCHDOG_USEC out of the environment: what this process starts is not the service. To be called
 * before any thread is there. */
void bl_notify_begin(void);

/* READY and a line of STATUS; later calls change the status alone. */
void bl_notify_ready(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The loop runs: to be called often; says WATCHDOG four times in the interval that the manager asks for, once READY was said. */
void bl_notify_alive(void);
void bl_notify_stopping(void);
