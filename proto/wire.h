/* proto/wire.h - everything a loop needs to talk to the other programs.
 *
 *   endpoint.h   tcp://HOST:PORT: its syntax, and whether it leaves this machine
 *   socket.h     ZeroMQ sockets inside a libuv loop
 *   envelope.h   control messages: encode, decode, check
 *   batch.h      data messages: a group of samples from loader to worker
 *
 * Control goes DEALER (peer) to ROUTER (coordinator), one Envelope a message. Data goes PUSH
 * (loader) to PULL (worker). What a message means is not known here; docs/protocol.md has it. */
#pragma once

#include "proto/batch.h"
#include "proto/endpoint.h"
#include "proto/envelope.h"
#include "proto/socket.h"
