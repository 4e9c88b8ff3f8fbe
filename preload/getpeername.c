/*
 * libtlsplice_preload.so: what getpeername(2) tells a program that `exec` has started, with `transparent = source`. The program sits on a socket pair or a
 * terminal; about its descriptors 0, 1 and 2 it is told the address of the TLS client, which is in REMOTE_HOST and REMOTE_PORT. Sockets of a
 * network are left alone, whatever their number. Loaded by LD_PRELOAD into programs that have nothing to do with the proxy: it keeps to itself.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef int getpeername_fn(int fd, struct sockaddr *addr, socklen_t *len);

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_storage storage;
};

/* Declared here, for the C library's header gives the second parameter a type of its own. */
__attribute__((visibility("default"))) int getpeername(int fd, struct sockaddr *restrict addr, socklen_t *restrict len);

static int ask_system(int fd, struct sockaddr *addr, socklen_t *len)
{
	getpeername_fn *next;

	*(void **)&next = dlsym(RTLD_NEXT, "getpeername");
	if (next)
		return next(fd, addr, len);
	errno = ENOSYS;
	return -1;
}

/* A socket whose other side is somewhere in a network. */
static int is_network(int fd)
{
	union address peer;
	socklen_t len = sizeof(peer);

	return ask_system(fd, &peer.sa, &len) == 0 && (peer.sa.sa_family == AF_INET || peer.sa.sa_family == AF_INET6);
}

/* Returns the length of the client's address, 0 if the environment has none. */
static socklen_t client_address(union address *client)
{
	const char *host = getenv("REMOTE_HOST"), *port = getenv("REMOTE_PORT");
	in_port_t number = htons((in_port_t)(port ? strtoul(port, NULL, 10) : 0));

	memset(client, 0, sizeof(*client));
	if (host && inet_pton(AF_INET, host, &client->in.sin_addr) == 1) {
		client->in.sin_family = AF_INET;
		client->in.sin_port = number;
		return sizeof(client->in);
	}
	if (host && inet_pton(AF_INET6, host, &client->in6.sin6_addr) == 1) {
		client->in6.sin6_family = AF_INET6;
		client->in6.sin6_port = number;
		return sizeof(client->in6);
	}
	return 0;
}

int getpeername(int fd, struct sockaddr *restrict addr, socklen_t *restrict len)
{
	union address client;
	int before = errno;
	socklen_t size;

	if (fd < STDIN_FILENO || fd > STDERR_FILENO || !addr || !len || is_network(fd))
		return ask_system(fd, addr, len);
	size = client_address(&client);
	if (size == 0)
		return ask_system(fd, addr, len);
	/* As the system does: what fits, and how long it would be. */
	memcpy(addr, &client, *len < size ? *len : size);
	*len = size;
	errno = before;
	return 0;
}
