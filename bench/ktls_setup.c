/*
 * What it costs to hand a TLS 1.3 AES-128-GCM connection over to the kernel, step by step, and, beside it, to the code of the engine
 * `inplace`: CPU time of this thread, mean of many loopback connections, printed as one line of JSON. Stand-alone program: ktls_setup [COUNT];
 * bench/guest runs it where a nanosecond is an instruction. Works anywhere with the module tls.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "bench.h"
#include "tls_traffic.h"

#include <arpa/inet.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { WARMUP = 50 };
enum step { KEYS, ULP, TX, RX, CLOSE, CLOSE_PLAIN, INPLACE, STEPS };

static const char *const names[STEPS] = {
	"keys, both directions",
	"TCP_ULP",
	"TLS_TX",
	"TLS_RX",
	"close",
	"close of a plain socket",
	"inplace: cipher contexts, both directions",
};
static uint64_t spent[STEPS];

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Books what has passed since *since on a step. */
static void book(enum step step, uint64_t *since)
{
	uint64_t now = cpu_ns();

	spent[step] += now - *since;
	*since = cpu_ns();
}

static int listen_here(struct sockaddr_in *at)
{
	socklen_t len = sizeof(*at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0 || bind(fd, (struct sockaddr *)at, len) || listen(fd, 8) || getsockname(fd, (struct sockaddr *)at, &len))
		die("ktls_setup: no listening socket: %s", strerror(errno));
	return fd;
}

static void connect_pair(int listener, const struct sockaddr_in *at, int fd[2])
{
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd[0] < 0 || connect(fd[0], (const struct sockaddr *)at, sizeof(*at)))
		die("ktls_setup: connect: %s", strerror(errno));
	fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd[1] < 0)
		die("ktls_setup: accept: %s", strerror(errno));
}

static void derive(struct tls_keys *keys)
{
	static const unsigned char secret[32] = "not a secret at all";

	if (!tls_keys_from_secret(keys, AEAD_AES_128_GCM, "SHA256", secret, sizeof(secret)))
		die("ktls_setup: cannot derive keys");
}

static void give_keys(int fd, int direction, const struct tls_keys *keys)
{
	struct tls12_crypto_info_aes_gcm_128 info = {.info = {TLS_1_3_VERSION, TLS_CIPHER_AES_GCM_128}};

	memcpy(info.key, keys->key, sizeof(info.key));
	memcpy(info.salt, keys->iv, sizeof(info.salt));
	memcpy(info.iv, keys->iv + sizeof(info.salt), sizeof(info.iv));
	if (setsockopt(fd, SOL_TLS, direction, &info, sizeof(info)))
		die("ktls_setup: %s: %s", direction == TLS_TX ? "TLS_TX" : "TLS_RX", strerror(errno));
}

static void promote_inplace(const struct tls_keys keys[2], uint64_t *at)
{
	struct aead *seal = aead_new(AEAD_AES_128_GCM, keys[0].key, true), *open = aead_new(AEAD_AES_128_GCM, keys[1].key, false);

	book(INPLACE, at);
	aead_free(seal);
	aead_free(open);
}

/* Both ends are ours, so that closing the plain one first leaves no port waiting behind the other. */
static void one(int listener, const struct sockaddr_in *address)
{
	struct tls_keys keys[2];
	uint64_t at;
	int fd[2];

	connect_pair(listener, address, fd);
	at = cpu_ns();
	derive(&keys[0]);
	derive(&keys[1]);
	book(KEYS, &at);
	if (setsockopt(fd[1], IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")))
		die("ktls_setup: TCP_ULP: %s", strerror(errno));
	book(ULP, &at);
	give_keys(fd[1], TLS_TX, &keys[0]);
	book(TX, &at);
	give_keys(fd[1], TLS_RX, &keys[1]);
	book(RX, &at);
	close(fd[1]);
	book(CLOSE, &at);
	close(fd[0]);

	connect_pair(listener, address, fd);
	at = cpu_ns();
	close(fd[1]);
	book(CLOSE_PLAIN, &at);
	close(fd[0]);

	at = cpu_ns();
	promote_inplace(keys, &at);
}

int main(int argc, char **argv)
{
	unsigned long count = argc > 1 ? number("COUNT", argv[1], 100000) : 500;
	struct sockaddr_in address;
	int listener = listen_here(&address);

	for (unsigned i = 0; i < WARMUP; i++)
		one(listener, &address);
	memset(spent, 0, sizeof(spent));
	for (unsigned long i = 0; i < count; i++)
		one(listener, &address);
	for (enum step s = 0; s < STEPS; s++)
		printf("%s\"%s\": %llu", s ? ", " : "{", names[s], (unsigned long long)(spent[s] / count));
	puts("}");
	return 0;
}
