/*
 * Kernel TLS: see ktls.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ktls.h"

#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef TLS_RX_EXPECT_NO_PAD /* Linux 6.0 */
#define TLS_RX_EXPECT_NO_PAD 4
#endif

/* The key, salt, IV and number of a cipher lie at different places in the kernel's structs. */
static const struct cipher {
	const char *name;
	uint16_t id;
	size_t size, iv, iv_len, key, key_len, salt, salt_len, sequence;
} ciphers[AEAD_CIPHERS] = {
#define CIPHER(text, id_, type, salt_len_)                                                                                       \
	{.name = text,                                                                                                               \
	 .id = id_,                                                                                                                  \
	 .size = sizeof(struct type),                                                                                                \
	 .iv = offsetof(struct type, iv),                                                                                            \
	 .iv_len = AEAD_NONCE - (salt_len_),                                                                                         \
	 .key = offsetof(struct type, key),                                                                                          \
	 .key_len = sizeof(((struct type *)0)->key),                                                                                 \
	 .salt = offsetof(struct type, salt),                                                                                        \
	 .salt_len = salt_len_,                                                                                                      \
	 .sequence = offsetof(struct type, rec_seq)}
	[AEAD_AES_128_GCM] = CIPHER("AES-128-GCM", TLS_CIPHER_AES_GCM_128, tls12_crypto_info_aes_gcm_128, 4),
	[AEAD_AES_256_GCM] = CIPHER("AES-256-GCM", TLS_CIPHER_AES_GCM_256, tls12_crypto_info_aes_gcm_256, 4),
	[AEAD_CHACHA20_POLY1305] =
		CIPHER("CHACHA20-POLY1305", TLS_CIPHER_CHACHA20_POLY1305, tls12_crypto_info_chacha20_poly1305, 0),
	[AEAD_AES_128_CCM] = CIPHER("AES-128-CCM", TLS_CIPHER_AES_CCM_128, tls12_crypto_info_aes_ccm_128, 4),
#undef CIPHER
};

/* Room for the largest of them. */
union crypto_info {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 aes_gcm_128;
	struct tls12_crypto_info_aes_gcm_256 aes_gcm_256;
	struct tls12_crypto_info_chacha20_poly1305 chacha20_poly1305;
	struct tls12_crypto_info_aes_ccm_128 aes_ccm_128;
	unsigned char bytes[1];
};

enum { APPLICATION_DATA = 23 }; /* RFC 8446 5.1 */

const char *const ktls_direction_names[KTLS_DIRECTIONS] = {"tx", "rx"};

const struct ktls_outcome_text ktls_outcomes[KTLS_OUTCOME_COUNT] = {
#define X(name, word, why) {word, why},
	KTLS_OUTCOMES(X)
#undef X
};

static struct ktls_support support = {.error = -ENOPROTOOPT};

const struct ktls_support *ktls_support(void)
{
	return &support;
}

const char *ktls_cipher_name(enum aead_cipher cipher)
{
	return ciphers[cipher].name;
}

const char *ktls_explain(int error)
{
	switch (-error) {
	case ENOENT:
		return "this kernel has no TLS: CONFIG_TLS is off, or the module tls is not loaded (modprobe tls)";
	case ENOPROTOOPT: return "this kernel is too old for TLS";
	default: return strerror(-error);
	}
}

/* --- keys --------------------------------------------------------------------------------------------------------------------------- */

#ifdef RING_FAULTS
static struct {
	atomic_ulong left; /* calls until the one that fails */
	atomic_int error;
} faults;

void ktls_fail_nth(unsigned long nth, int error)
{
	atomic_store(&faults.error, error);
	atomic_store(&faults.left, nth);
}

static void faults_configure(void)
{
	const char *text = getenv("TLSPLICE_FAIL_KTLS");
	char *end;
	unsigned long nth = text ? strtoul(text, &end, 10) : 0;

	if (nth)
		ktls_fail_nth(nth, *end == ':' ? -(int)strtoul(end + 1, NULL, 10) : -ENOMEM);
}

static int fault(void)
{
	unsigned long left = atomic_load(&faults.left);

	while (left && !atomic_compare_exchange_weak(&faults.left, &left, left - 1))
		;
	return left == 1 ? atomic_load(&faults.error) : 0;
}
#else
#define fault() 0
#define faults_configure() ((void)0)
#endif

static int set(int fd, int level, int name, const void *value, size_t n)
{
	int error = fault();

	if (error)
		return error;
	return setsockopt(fd, level, name, value, (socklen_t)n) < 0 ? -errno : 0;
}

int ktls_attach(int fd)
{
	int error = set(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls"));

	return error == -EEXIST ? 0 : error;
}

static bool expect_no_pad(int fd)
{
	static const int yes = 1;

	return setsockopt(fd, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &yes, sizeof(yes)) == 0;
}

int ktls_install(int fd, enum ktls_direction direction, enum ktls_version version, enum aead_cipher cipher, const struct tls_keys *keys,
                 uint64_t sequence)
{
	const struct cipher *c = &ciphers[cipher];
	union crypto_info u;
	unsigned char number[8];
	int error;

	for (int i = 7; i >= 0; i--, sequence >>= 8)
		number[i] = (unsigned char)sequence;
	memset(&u, 0, sizeof(u));
	u.info.version = version == KTLS_13 ? TLS_1_3_VERSION : TLS_1_2_VERSION;
	u.info.cipher_type = c->id;
	memcpy(u.bytes + c->key, keys->key, c->key_len);
	memcpy(u.bytes + c->salt, keys->iv, c->salt_len);
	/* TLS 1.2 with a salt: the rest of the nonce comes with each record; ours count up, as RFC 5288 section 3 suggests. */
	if (version == KTLS_12 && c->salt_len > 0)
		memcpy(u.bytes + c->iv, number, sizeof(number));
	else
		memcpy(u.bytes + c->iv, keys->iv + c->salt_len, c->iv_len);
	memcpy(u.bytes + c->sequence, number, sizeof(number));
	error = set(fd, SOL_TLS, direction == KTLS_SEND ? TLS_TX : TLS_RX, &u, c->size);
	OPENSSL_cleanse(&u, sizeof(u));
	/* A hint that saves a copy: whoever pads is decrypted twice, and nobody is refused. */
	if (!error && direction == KTLS_RECEIVE && version == KTLS_13 && support.no_pad)
		(void)expect_no_pad(fd);
	return error;
}

int ktls_sequence(int fd, enum ktls_direction direction, enum aead_cipher cipher, uint64_t *sequence)
{
	const struct cipher *c = &ciphers[cipher];
	socklen_t n = (socklen_t)c->size;
	union crypto_info u;
	int error = getsockopt(fd, SOL_TLS, direction == KTLS_SEND ? TLS_TX : TLS_RX, &u, &n) < 0 ? -errno : 0;

	*sequence = 0;
	for (int i = 0; !error && i < 8; i++)
		*sequence = *sequence << 8 | u.bytes[c->sequence + (size_t)i];
	OPENSSL_cleanse(&u, sizeof(u));
	return error;
}

/* --- records ------------------------------------------------------------------------------------------------------------------------ */

/* A control message of one byte, aligned as the kernel wants it. */
union control {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(1)];
};

unsigned char ktls_control_type(const void *control, size_t n)
{
	struct cmsghdr head;

	if (n < CMSG_LEN(1))
		return 0;
	memcpy(&head, control, sizeof(head));
	if (head.cmsg_level != SOL_TLS || head.cmsg_type != TLS_GET_RECORD_TYPE)
		return 0;
	return ((const unsigned char *)control)[CMSG_LEN(0)];
}

long ktls_result(long n, unsigned char *type)
{
	bool data = *type == APPLICATION_DATA;

	if (data)
		*type = 0;
	if (n != 0 || (!data && !*type))
		return n;
	return data ? -EAGAIN : -EPROTO;
}

long ktls_read(int fd, void *data, size_t n, unsigned char *type)
{
	struct iovec iov = {.iov_base = data, .iov_len = n};
	union control control;
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
	long got;

	do {
		msg.msg_controllen = sizeof(control);
		got = recvmsg(fd, &msg, MSG_DONTWAIT);
		if (got < 0)
			return -errno;
		*type = ktls_control_type(&control, msg.msg_controllen);
		/* An empty record of data: only when one of another type lies behind it, of which a poll has told already. */
	} while (got == 0 && *type == APPLICATION_DATA);
	return ktls_result(got, type);
}

int ktls_write_record(int fd, unsigned char type, const void *data, size_t n)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = n};
	union control control = {.head = {.cmsg_level = SOL_TLS, .cmsg_type = TLS_SET_RECORD_TYPE, .cmsg_len = CMSG_LEN(1)}};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

	*CMSG_DATA(&control.head) = type;
	return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

bool ktls_clear_error(int fd)
{
	int error = 0;
	socklen_t n = sizeof(error);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error;
}

/* --- probing ------------------------------------------------------------------------------------------------------------------------ */

/* Two connected sockets, over the loopback interface: kernel TLS wants TCP connections. Returns 0 or -errno. */
static int pair_open(int fd[2])
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = 0;

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fd[1] = -1;
	if (listener < 0 || fd[0] < 0 || bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || connect(fd[0], (struct sockaddr *)&addr, len) < 0 ||
	    (fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
		error = -errno;
	if (listener >= 0)
		close(listener);
	return error;
}

static void pair_close(const int fd[2])
{
	for (int i = 0; i < 2; i++)
		if (fd[i] >= 0)
			close(fd[i]);
}

static bool takes(int fd, enum ktls_direction direction, enum ktls_version version, enum aead_cipher cipher)
{
	static const struct tls_keys keys; /* any will do */

	return ktls_install(fd, direction, version, cipher, &keys, 0) == 0;
}

static void probe_cipher(int fd, enum ktls_version version, enum aead_cipher cipher)
{
	for (int direction = 0; direction < KTLS_DIRECTIONS; direction++)
		support.cipher[direction][version][cipher] = takes(fd, direction, version, cipher);
}

/* On a socket that has keys of TLS 1.3 already. */
static void probe_rekey(int fd)
{
	support.rekey = takes(fd, KTLS_SEND, KTLS_13, AEAD_AES_128_GCM) && takes(fd, KTLS_RECEIVE, KTLS_13, AEAD_AES_128_GCM);
}

enum { PADDED_HEADER = 5, PADDED_PLAIN = 64, PADDED = PADDED_HEADER + PADDED_PLAIN + AEAD_TAG };

/* A record of TLS 1.3 under a key and an IV of zeros, with n bytes of data and padding behind them. */
static bool make_padded(unsigned char record[PADDED], unsigned char number, const char *data, size_t n)
{
	static const unsigned char zeros[AEAD_KEY_MAX];
	static const unsigned char header[PADDED_HEADER] = {APPLICATION_DATA, 3, 3, 0, PADDED - PADDED_HEADER};
	const unsigned char nonce[AEAD_NONCE] = {[AEAD_NONCE - 1] = number};
	unsigned char plain[PADDED_PLAIN] = {0};
	struct aead *aead = aead_new(AEAD_AES_128_GCM, zeros, true);
	bool ok;

	memcpy(plain, data, n);
	plain[n] = APPLICATION_DATA;
	memcpy(record, header, sizeof(header));
	ok = aead && aead_begin(aead, nonce, header, sizeof(header)) &&
	     aead_update(aead, record + PADDED_HEADER, plain, sizeof(plain)) && aead_seal(aead, record + PADDED_HEADER + PADDED_PLAIN);
	aead_free(aead);
	return ok;
}

/*
 * Linux 6.1 and 6.12 take the hint, and then hand padding to the reader as if it were data when a record of padding alone comes before another: seen, and
 * tried here, for what is wrong may be repaired in any version.
 */
static bool probe_no_pad(int fd, int peer)
{
	static const char text[] = "padded";
	unsigned char records[2 * PADDED], got[2 * PADDED], type;
	size_t n = sizeof(text) - 1;

	return expect_no_pad(fd) && make_padded(records, 0, "", 0) && make_padded(records + PADDED, 1, text, n) &&
	       send(peer, records, sizeof(records), MSG_NOSIGNAL) == sizeof(records) &&
	       ktls_read(fd, got, sizeof(got), &type) == (long)n && memcmp(got, text, n) == 0;
}

/* Loopback delivers at once. */
static bool probe_partial(int fd, int peer)
{
	static const unsigned char part[] = {APPLICATION_DATA, 3, 3, 0, 64, 0, 0, 0};
	struct pollfd poll_in = {.fd = fd, .events = POLLIN};

	return send(peer, part, sizeof(part), MSG_NOSIGNAL) == sizeof(part) && poll(&poll_in, 1, 0) == 1;
}

static int probe_pair(enum ktls_version version, enum aead_cipher cipher)
{
	int fd[2], error = pair_open(fd);

	if (!error)
		error = ktls_attach(fd[0]);
	if (!error) {
		probe_cipher(fd[0], version, cipher);
		if (version == KTLS_13 && cipher == AEAD_AES_128_GCM) {
			support.no_pad = probe_no_pad(fd[0], fd[1]);
			probe_rekey(fd[0]);
			support.tells_partial = probe_partial(fd[0], fd[1]);
		}
	}
	pair_close(fd);
	return error;
}

void ktls_probe(void)
{
	memset(&support, 0, sizeof(support));
	for (int version = 0; !support.error && version < KTLS_VERSIONS; version++)
		for (int cipher = 0; !support.error && cipher < AEAD_CIPHERS; cipher++)
			support.error = probe_pair(version, cipher);
	faults_configure(); /* the trials above do not count */
}
