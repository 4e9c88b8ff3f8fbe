/*
 * Ends: one socket of a connection, how bytes come from it and go to it. A plain socket and one whose records the kernel makes look alike here,
 * but for chunks with `content`, which are records of another type than application data. Pipes, terminals and files are ends too: they are
 * read and written by system calls, once a poll says that there is something to read or room.
 * For conn.c and relay*.c; everything belongs to the connection's worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_END_H
#define TLSPLICE_END_H

#include "buf.h"
#include "ring.h"

#include <stdbool.h>

struct conn;
struct tls;

/* What `recv` is armed for. */
enum end_receiving {
	END_ONE,     /* one big receive */
	END_REST,    /* one receive of what is missing to the end of a record */
	END_MANY,    /* bytes as they come, into small chunks */
	END_RECORDS, /* the same, records of kernel TLS */
	END_POLLED,  /* to know when there is something to read, which is then done by system calls */
};

/* What `send` is armed for. */
enum end_sending {
	END_QUEUE, /* the first chunk of `out` */
	END_ROOM,  /* to know when there is room */
	END_FILL,  /* a splice into the pipe of the pump that ends here, */
	END_DRAIN, /* and out of it */
};

struct end {
	int fd;              /* bytes come from here; -1: not there (yet) */
	int to_fd;           /* and go here: the same, but in inetd mode */
	int flags, to_flags; /* of files: as they were before O_NONBLOCK, which others who share them see; -1: as they are */
	struct ring_op recv, send;
	enum end_receiving receiving;
	enum end_sending sending;
	struct queue in;  /* received, not yet moved on */
	struct queue out; /* waiting to be sent, or being sent */
	struct conn *conn;
	struct tls *tls;  /* NULL: plain */
	bool opens;       /* the kernel opens records that come in, */
	bool seals;       /* and seals what goes out */
	bool bulk;        /* much comes in: big receives, one at a time, instead of small ones as they come */
	bool file;        /* no socket; O_NONBLOCK is set */
	bool pollable;    /* a file that one can wait for; others (regular ones) are always ready */
	bool terminal;    /* EIO of `fd` says that a terminal's other side is gone, */
	bool to_terminal; /* and EIO of `to_fd` */
	bool hung_up;     /* it is */
	bool nonblocking; /* O_NONBLOCK is set: for splice(2) */
	bool readable;    /* polled: there may be something to read */
	bool eof;         /* nothing more will be received */
	bool torn;        /* because of a RST */
	bool closed;      /* nothing more may be sent: shut down, or broken */
};

/* Gives the end its socket. */
void end_open(struct end *end, int fd);

/* Gives the end files, or two sockets, one for each direction. Returns 0 or -errno, and then the end is as it was. */
int end_open_files(struct end *end, int from, int to);

/* Closes, and leaves the files as they were found. */
void end_close(struct end *end);

/* For coroutines: waits for bytes. As ring_await_recv(). */
int end_await(struct end *end, struct ring_wait *wait, struct chunk **chunk);

/* Arms `recv` to tell when there is something to read. */
void end_await_readable(struct end *end);

/* Sends what is in end->out, if it is not being sent already. */
void end_send(struct end *end);

/* Waits for room: `send` completes when there is. */
void end_await_room(struct end *end);

/*
 * A completion of `send` for the queue or for room: takes what has gone off the queue. Returns 0, -EAGAIN: it goes on by itself, or the -errno that
 * makes the end one to which nothing more may be sent.
 */
int end_sent(struct end *end, int res);

/* True if the result of a receive or of a poll, which nobody wants to know any more but for this, says that the peer is gone. */
bool end_has_hung_up(const struct end *end, int res);

/* True if a send's result (-errno) is about a record that came in and that the kernel has refused: nothing is wrong with sending. */
bool end_is_refusal(const struct end *end, int res);

/* True when everything that was sent has left the kernel's TLS for TCP: before that, closing or shutting down would lose the last record. */
bool end_flushed(const struct end *end);

/* Sets O_NONBLOCK. Returns 0 or -errno. */
int end_set_nonblocking(struct end *end);

/*
 * Reads at once what there is, up to a chunk of that size. Returns bytes, and the chunk with them; 0 at the end of the stream; -EAGAIN: nothing;
 * else -errno.
 */
long end_read(struct end *end, enum chunk_size size, struct chunk **chunk);

#endif
