/*
 * Unit tests of ktls.h: what is made of reads and control messages, what the kernel is handed, texts, probing; and, where the kernel has TLS, records
 * over the loopback interface, with a peer that makes its own. Run by `make unit`; the faults need a sanitizer build, which has RING_FAULTS.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ktls.h"

#include "record_testing.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { ALERT = 21, HANDSHAKE = 22, DATA = 23, FIRST_BYTES = 17000, NOWHERE = 1000000 };

static const enum ktls_direction directions[] = {KTLS_SEND, KTLS_RECEIVE};

/* --- system calls that a test takes the place of, for descriptor NOWHERE ------------------------------------------------------------ */

/* What setsockopt(2) was asked to do. */
static struct asked {
	int calls, fd, level, name, error; /* of the first call */
	unsigned char value[128];
	socklen_t n;
} asked;

int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
{
	if (fd != NOWHERE)
		return (int)syscall(SYS_setsockopt, fd, level, name, value, n);
	if (asked.calls++ > 0)
		return 0;
	asked.fd = fd;
	asked.level = level;
	asked.name = name;
	asked.n = n;
	memcpy(asked.value, value, n < sizeof(asked.value) ? n : sizeof(asked.value));
	errno = asked.error;
	return asked.error ? -1 : 0;
}

/* What recvmsg(2) brings, one after the other: a length or -errno, and the type of the records, 0: none. */
static const struct come {
	long n;
	unsigned char type;
} * to_come;

ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct cmsghdr *head = CMSG_FIRSTHDR(msg);
	struct come now;

	if (fd != NOWHERE)
		return syscall(SYS_recvmsg, fd, msg, flags);
	cr_assert(flags & MSG_DONTWAIT);
	now = *to_come++;
	if (now.n < 0) {
		errno = (int)-now.n;
		return -1;
	}
	msg->msg_controllen = 0;
	if (now.type) {
		head->cmsg_level = SOL_TLS;
		head->cmsg_type = TLS_GET_RECORD_TYPE;
		head->cmsg_len = CMSG_LEN(1);
		*CMSG_DATA(head) = now.type;
		msg->msg_controllen = CMSG_SPACE(1);
	}
	return now.n;
}

/* --- results ------------------------------------------------------------------------------------------------------------------------ */

static long result(long n, int type, int type_after)
{
	unsigned char t = (unsigned char)type;
	long r = ktls_result(n, &t);

	cr_assert_eq(t, type_after);
	return r;
}

Test(ktls, results)
{
	cr_assert_eq(result(5, DATA, 0), 5, "application data is nothing special");
	cr_assert_eq(result(5, 0, 0), 5, "nor is a socket without keys");
	cr_assert_eq(result(2, ALERT, ALERT), 2);
	cr_assert_eq(result(16384, HANDSHAKE, HANDSHAKE), 16384);
	cr_assert_eq(result(1, 255, 255), 1);
	cr_assert_eq(result(0, 0, 0), 0, "the end of the stream");
	cr_assert_eq(result(0, DATA, 0), -EAGAIN);
	cr_assert_eq(result(0, ALERT, ALERT), -EPROTO);
	cr_assert_eq(result(0, HANDSHAKE, HANDSHAKE), -EPROTO);
	cr_assert_eq(result(-EBADMSG, 0, 0), -EBADMSG);
	cr_assert_eq(result(-EKEYEXPIRED, 0, 0), -EKEYEXPIRED);
}

Test(ktls, control_messages)
{
	union {
		struct cmsghdr head;
		unsigned char bytes[2 * CMSG_SPACE(1)];
	} control = {.head = {.cmsg_level = SOL_TLS, .cmsg_type = TLS_GET_RECORD_TYPE, .cmsg_len = CMSG_LEN(1)}};
	unsigned char shifted[1 + CMSG_SPACE(1)];

	*CMSG_DATA(&control.head) = ALERT;
	for (size_t n = 0; n < CMSG_LEN(1); n++)
		cr_assert_eq(ktls_control_type(&control, n), 0, "%zu bytes are too short", n);
	cr_assert_eq(ktls_control_type(&control, CMSG_LEN(1)), ALERT);
	cr_assert_eq(ktls_control_type(&control, CMSG_SPACE(1)), ALERT);
	cr_assert_eq(ktls_control_type(&control, sizeof(control)), ALERT);
	memcpy(shifted + 1, &control, CMSG_SPACE(1)); /* in a chunk it lies where it lies */
	cr_assert_eq(ktls_control_type(shifted + 1, CMSG_SPACE(1)), ALERT);
	control.head.cmsg_level = SOL_SOCKET;
	cr_assert_eq(ktls_control_type(&control, sizeof(control)), 0);
	control.head.cmsg_level = SOL_TLS;
	control.head.cmsg_type = TLS_SET_RECORD_TYPE;
	cr_assert_eq(ktls_control_type(&control, sizeof(control)), 0);
}

/* Reads `script`; the result and the type of each call are as the tables say. */
static void reads(const struct come *script, const struct come *wanted, size_t n)
{
	char room[16];

	to_come = script;
	for (size_t i = 0; i < n; i++) {
		unsigned char type = 99;
		long r = ktls_read(NOWHERE, room, sizeof(room), &type);

		cr_assert_eq(r, wanted[i].n, "call %zu: %ld", i, r);
		cr_assert(r <= 0 || type == wanted[i].type);
	}
}

Test(ktls, reads)
{
	static const struct come script[] = {{5, DATA}, {5, 0}, {2, ALERT}, {-EAGAIN, 0}, {-EIO, 0}, {0, HANDSHAKE}, {0, 0}},
				 wanted[] = {{5, 0}, {5, 0}, {2, ALERT}, {-EAGAIN, 0}, {-EIO, 0}, {-EPROTO, 0}, {0, 0}};

	reads(script, wanted, sizeof(wanted) / sizeof(*wanted));
}

/* "Nothing there" sends the reader back to its poll, which does not tell again of the alert behind an empty record. */
Test(ktls, reads_on_behind_an_empty_record)
{
	static const struct come script[] = {{0, DATA}, {2, ALERT},   {0, DATA}, {0, DATA}, {5, HANDSHAKE},
	                                     {0, DATA}, {-EAGAIN, 0}, {0, DATA}, {0, 0}},
				 wanted[] = {{2, ALERT}, {5, HANDSHAKE}, {-EAGAIN, 0}, {0, 0}};

	reads(script, wanted, sizeof(wanted) / sizeof(*wanted));
}

/* --- what the kernel is handed ------------------------------------------------------------------------------------------------------ */

enum { SEQUENCE_LEN = 8 };
static const uint64_t sequence = 0x0102030405060708;
static const unsigned char number[SEQUENCE_LEN] = {1, 2, 3, 4, 5, 6, 7, 8};

static struct tls_keys some_keys(void)
{
	struct tls_keys keys;

	for (size_t i = 0; i < sizeof(keys.key); i++)
		keys.key[i] = (unsigned char)(0x40 + i);
	for (size_t i = 0; i < sizeof(keys.iv); i++)
		keys.iv[i] = (unsigned char)(0xa0 + i);
	return keys;
}

/* `asked.value` is the kernel's struct for a cipher, with those keys. */
#define CHECK_HANDED(type, id, version, with_salt)                                                         \
	do {                                                                                               \
		struct type info;                                                                          \
		const struct tls_keys keys = some_keys();                                                  \
		cr_assert_eq(asked.n, sizeof(info));                                                       \
		memcpy(&info, asked.value, sizeof(info));                                                  \
		cr_assert_eq(info.info.version, (version) == KTLS_13 ? TLS_1_3_VERSION : TLS_1_2_VERSION); \
		cr_assert_eq(info.info.cipher_type, id);                                                   \
		cr_assert_arr_eq(info.key, keys.key, sizeof(info.key));                                    \
		cr_assert_arr_eq(asked.value + offsetof(struct type, salt), keys.iv, (with_salt) ? 4 : 0); \
		if ((with_salt) && (version) == KTLS_12)                                                   \
			cr_assert_arr_eq(info.iv, number, 8);                                              \
		else                                                                                       \
			cr_assert_arr_eq(info.iv, keys.iv + ((with_salt) ? 4 : 0), (with_salt) ? 8 : 12);  \
		cr_assert_arr_eq(info.rec_seq, number, SEQUENCE_LEN);                                      \
	} while (0)

static void check_handed(enum ktls_version version, enum aead_cipher cipher)
{
	switch (cipher) {
	case AEAD_AES_128_GCM: CHECK_HANDED(tls12_crypto_info_aes_gcm_128, TLS_CIPHER_AES_GCM_128, version, true); break;
	case AEAD_AES_256_GCM: CHECK_HANDED(tls12_crypto_info_aes_gcm_256, TLS_CIPHER_AES_GCM_256, version, true); break;
	case AEAD_AES_128_CCM: CHECK_HANDED(tls12_crypto_info_aes_ccm_128, TLS_CIPHER_AES_CCM_128, version, true); break;
	case AEAD_CHACHA20_POLY1305:
		CHECK_HANDED(tls12_crypto_info_chacha20_poly1305, TLS_CIPHER_CHACHA20_POLY1305, version, false);
		break;
	case AEAD_CIPHERS: break;
	}
}

Test(ktls, what_the_kernel_is_handed)
{
	const struct tls_keys keys = some_keys();

	for (size_t d = 0; d < KTLS_DIRECTIONS; d++)
		for (int version = 0; version < KTLS_VERSIONS; version++)
			for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++) {
				asked = (struct asked){0};
				cr_assert_eq(ktls_install(NOWHERE, directions[d], version, cipher, &keys, sequence), 0);
				cr_assert(asked.fd == NOWHERE && asked.level == SOL_TLS);
				cr_assert_eq(asked.name, directions[d] == KTLS_SEND ? TLS_TX : TLS_RX);
				cr_assert_eq(asked.calls, 1, "no hint before it was tried whether the kernel takes it right");
				check_handed(version, cipher);
				asked = (struct asked){.error = EBUSY};
				cr_assert_eq(ktls_install(NOWHERE, directions[d], version, cipher, &keys, sequence), -EBUSY);
				cr_assert_eq(asked.calls, 1);
			}
	asked = (struct asked){0};
	cr_assert_eq(ktls_attach(NOWHERE), 0);
	cr_assert(asked.level == IPPROTO_TCP && asked.name == TCP_ULP && asked.n >= 3 && memcmp(asked.value, "tls", 3) == 0);
	asked = (struct asked){.error = EEXIST};
	cr_assert_eq(ktls_attach(NOWHERE), 0, "it is one already");
	asked = (struct asked){.error = ENOENT};
	cr_assert_eq(ktls_attach(NOWHERE), -ENOENT);
}

#ifdef RING_FAULTS
Test(ktls, calls_fail_to_order)
{
	const struct tls_keys keys = some_keys();

	asked = (struct asked){0};
	ktls_fail_nth(2, -EBUSY);
	cr_assert_eq(ktls_attach(NOWHERE), 0);
	cr_assert_eq(ktls_install(NOWHERE, KTLS_SEND, KTLS_13, AEAD_AES_128_GCM, &keys, 0), -EBUSY);
	cr_assert_eq(asked.calls, 1, "the kernel has heard nothing of it");
	cr_assert_eq(ktls_install(NOWHERE, KTLS_SEND, KTLS_13, AEAD_AES_128_GCM, &keys, 0), 0);
	setenv("TLSPLICE_FAIL_KTLS", "1:16", 1);
	ktls_probe();
	cr_assert_eq(ktls_attach(NOWHERE), -EBUSY);
	cr_assert_eq(ktls_attach(NOWHERE), 0);
	setenv("TLSPLICE_FAIL_KTLS", "1", 1);
	ktls_probe();
	cr_assert_eq(ktls_attach(NOWHERE), -ENOMEM);
}
#endif

/* --- texts -------------------------------------------------------------------------------------------------------------------------- */

Test(ktls, texts)
{
	cr_assert(strstr(ktls_explain(-ENOENT), "modprobe tls"));
	cr_assert(strstr(ktls_explain(-ENOPROTOOPT), "too old"));
	cr_assert_str_eq(ktls_explain(-EIO), strerror(EIO));
	cr_assert_str_eq(ktls_direction_names[KTLS_SEND], "tx");
	cr_assert_str_eq(ktls_direction_names[KTLS_RECEIVE], "rx");
	for (int a = 0; a < AEAD_CIPHERS; a++)
		for (int b = 0; b < AEAD_CIPHERS; b++)
			cr_assert_eq(strcmp(ktls_cipher_name(a), ktls_cipher_name(b)) == 0, a == b);
}

/* A word of each is a label of a metric: lower case, no blanks, no two alike. */
Test(ktls, outcomes)
{
	cr_assert_str_eq(ktls_outcomes[KTLS_KERNEL].word, "kernel");
	for (int a = 0; a < KTLS_OUTCOME_COUNT; a++) {
		cr_assert(*ktls_outcomes[a].word && *ktls_outcomes[a].why);
		cr_assert_eq(strspn(ktls_outcomes[a].word, "abcdefghijklmnopqrstuvwxyz_"), strlen(ktls_outcomes[a].word));
		for (int b = 0; b < a; b++) {
			cr_assert_str_neq(ktls_outcomes[a].word, ktls_outcomes[b].word);
			cr_assert_str_neq(ktls_outcomes[a].why, ktls_outcomes[b].why);
		}
	}
}

/* --- this kernel -------------------------------------------------------------------------------------------------------------------- */

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static bool any_cipher(const struct ktls_support *support)
{
	bool any = false;

	for (int d = 0; d < KTLS_DIRECTIONS; d++)
		for (int v = 0; v < KTLS_VERSIONS; v++)
			for (int c = 0; c < AEAD_CIPHERS; c++)
				any |= support->cipher[d][v][c];
	return any;
}

/* Before the probe nothing is promised; after it the parts agree, each time the same, and no descriptor is left. */
Test(ktls, probing)
{
	struct ktls_support first;
	int before;

	cr_assert_eq(ktls_support()->error, -ENOPROTOOPT);
	cr_assert_not(any_cipher(ktls_support()));
	before = descriptors();
	ktls_probe();
	first = *ktls_support();
	cr_assert_eq(descriptors(), before);
	cr_assert_leq(first.error, 0);
	cr_assert_eq(any_cipher(&first), first.error == 0, "%s", ktls_explain(first.error));
	if (first.error)
		cr_assert_not(first.rekey || first.no_pad || first.tells_partial);
	if (first.rekey)
		cr_assert(first.cipher[KTLS_SEND][KTLS_13][AEAD_AES_128_GCM] &&
		          first.cipher[KTLS_RECEIVE][KTLS_13][AEAD_AES_128_GCM]);
	for (int i = 0; i < 3; i++)
		ktls_probe();
	cr_assert_eq(memcmp(&first, ktls_support(), sizeof(first)), 0);
	cr_assert_eq(descriptors(), before);
}

/* A connection of which fd[0] is the kernel's, and at fd[1] the forger makes its records. */
struct link {
	int fd[2];
	enum ktls_version version;
	struct forger forger;
};

static void random_bytes(void *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((unsigned char *)to)[i] = (unsigned char)random();
}

static void connected(int fd[2])
{
	static const struct timeval patience = {.tv_sec = 10};
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&addr, len), 0);
	cr_assert_eq(listen(listener, 1), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
	cr_assert_eq(connect(fd[0], (struct sockaddr *)&addr, len), 0);
	fd[1] = accept(listener, NULL, NULL);
	cr_assert_geq(fd[1], 0);
	close(listener);
	setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

static int install(const struct link *l, enum ktls_direction direction)
{
	const struct forger_half *half = direction == KTLS_SEND ? &l->forger.rx : &l->forger.tx;

	return ktls_install(l->fd[0], direction, l->version, l->forger.cipher, &half->keys, half->sequence);
}

static void link_up(struct link *l, enum ktls_version version, enum aead_cipher cipher)
{
	memset(l, 0, sizeof(*l));
	connected(l->fd);
	l->version = version;
	l->forger.tls13 = version == KTLS_13;
	l->forger.cipher = cipher;
	l->forger.explicit_nonce = version == KTLS_12 && cipher != AEAD_CHACHA20_POLY1305;
	random_bytes(&l->forger.tx.keys, sizeof(l->forger.tx.keys));
	random_bytes(&l->forger.rx.keys, sizeof(l->forger.rx.keys));
	l->forger.tx.sequence = (uint64_t)random() << 20;
	l->forger.rx.sequence = (uint64_t)random() << 20;
	cr_assert_eq(ktls_attach(l->fd[0]), 0);
	cr_assert_eq(ktls_attach(l->fd[0]), 0, "harmless");
	for (size_t d = 0; d < KTLS_DIRECTIONS; d++)
		if (ktls_support()->cipher[directions[d]][version][cipher])
			cr_assert_eq(install(l, directions[d]), 0);
}

static void link_down(const struct link *l)
{
	close(l->fd[0]);
	close(l->fd[1]);
}

static void peer_sends_padded(struct link *l, int type, const void *bytes, size_t n, size_t padding)
{
	static unsigned char record[FORGED_MAX];
	size_t len = forge(&l->forger, record, type, bytes, n, padding);

	cr_assert_gt(len, 0);
	cr_assert_eq(send(l->fd[1], record, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void peer_sends(struct link *l, int type, const void *bytes, size_t n)
{
	peer_sends_padded(l, type, bytes, n, 0);
}

/* The peer takes the next record off the wire and opens it. */
static void peer_gets(struct link *l, int type, const void *bytes, size_t n)
{
	static unsigned char record[FORGED_MAX];
	unsigned char *content = NULL;
	size_t body, len = 0;
	int its_type = 0;

	cr_assert_eq(recv(l->fd[1], record, 5, MSG_WAITALL), 5);
	body = (size_t)record[3] << 8 | record[4];
	cr_assert_eq(recv(l->fd[1], record + 5, body, MSG_WAITALL), (ssize_t)body);
	cr_assert_eq(forger_open(&l->forger, record, 5 + body, &its_type, &content, &len), 5 + body, "does not open");
	cr_assert_eq(its_type, type);
	cr_assert_eq(len, n);
	cr_assert_arr_eq(content, bytes, n);
}

/* What a read brings, once there is something. */
static long we_read(const struct link *l, void *room, size_t n, unsigned char *type)
{
	struct pollfd readable = {.fd = l->fd[0], .events = POLLIN};
	long r;

	*type = 0;
	while ((r = ktls_read(l->fd[0], room, n, type)) == -EAGAIN)
		cr_assert_eq(poll(&readable, 1, 10000), 1, "nothing comes");
	return r;
}

/* n bytes in records of one type come, in as many reads as it takes. */
static void we_get(const struct link *l, int type, const void *bytes, size_t n)
{
	static unsigned char room[FIRST_BYTES];
	unsigned char its_type;
	size_t have = 0;

	while (have < n) {
		long r = we_read(l, room + have, n - have, &its_type);

		cr_assert_gt(r, 0, "%ld instead of %zu bytes of type %d: %s", r, n, type, ktls_cipher_name(l->forger.cipher));
		cr_assert_eq(its_type, type == DATA ? 0 : type);
		have += (size_t)r;
	}
	cr_assert_arr_eq(room, bytes, n);
}

static void with_each(void (*check)(struct link *l))
{
	bool any = false;

	ktls_probe();
	for (int version = 0; !ktls_support()->error && version < KTLS_VERSIONS; version++)
		for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++) {
			struct link l;

			if (!ktls_support()->cipher[KTLS_SEND][version][cipher] ||
			    !ktls_support()->cipher[KTLS_RECEIVE][version][cipher])
				continue;
			any = true;
			link_up(&l, version, cipher);
			check(&l);
			link_down(&l);
		}
	if (!any)
		cr_skip_test("this kernel has no TLS: %s", ktls_explain(ktls_support()->error));
}

static void both_ways(struct link *l)
{
	static unsigned char bytes[FIRST_BYTES];
	unsigned char type = 0;

	random_bytes(bytes, sizeof(bytes));
	cr_assert_eq(ktls_read(l->fd[0], bytes, 1, &type), -EAGAIN);
	for (size_t n = 1; n <= 16384; n = n * 3 + 1) {
		cr_assert_eq(send(l->fd[0], bytes, n, MSG_NOSIGNAL), (ssize_t)n);
		peer_gets(l, DATA, bytes, n);
		peer_sends(l, DATA, bytes, n);
		we_get(l, DATA, bytes, n);
	}
	cr_assert_eq(ktls_write_record(l->fd[0], ALERT, "\1\0", 2), 0);
	peer_gets(l, ALERT, "\1\0", 2);
	cr_assert_eq(ktls_write_record(l->fd[0], HANDSHAKE, bytes, 5000), 0);
	peer_gets(l, HANDSHAKE, bytes, 5000);
	cr_assert_eq(send(l->fd[0], bytes, 10, MSG_NOSIGNAL), 10);
	peer_gets(l, DATA, bytes, 10);
	peer_sends(l, DATA, "before", 6);
	peer_sends(l, HANDSHAKE, bytes, 5000);
	peer_sends(l, ALERT, "\1\0", 2);
	we_get(l, DATA, "before", 6);
	we_get(l, HANDSHAKE, bytes, 5000);
	we_get(l, ALERT, "\1\0", 2);
	shutdown(l->fd[1], SHUT_WR);
	cr_assert_eq(we_read(l, bytes, 1, &type), 0);
	cr_assert_eq(type, 0);
}

Test(ktls, records_both_ways, .timeout = 60)
{
	with_each(both_ways);
}

/* Empty records: of data they are nothing, whatever follows; of anything else they may not be. */
static void empty_records(struct link *l)
{
	unsigned char type = 0, room[8];

	peer_sends(l, DATA, "", 0);
	peer_sends(l, DATA, "x", 1);
	we_get(l, DATA, "x", 1);
	peer_sends(l, DATA, "", 0);
	peer_sends(l, ALERT, "\1\0", 2);
	cr_assert_eq(usleep(20000), 0);
	cr_assert_eq(ktls_read(l->fd[0], room, sizeof(room), &type), 2, "what is behind it must not be left for a wake-up");
	cr_assert_eq(type, ALERT);
	peer_sends(l, DATA, "", 0);
	cr_assert_eq(usleep(20000), 0);
	cr_assert_eq(ktls_read(l->fd[0], room, sizeof(room), &type), -EAGAIN);
	if (l->version == KTLS_13) {
		peer_sends(l, HANDSHAKE, "", 0);
		peer_sends(l, ALERT, "\1\0", 2);
		cr_assert_eq(we_read(l, room, sizeof(room), &type), -EPROTO);
	}
}

Test(ktls, empty_records, .timeout = 60)
{
	with_each(empty_records);
}

static void padded_records(struct link *l)
{
	if (l->version != KTLS_13)
		return;
	for (size_t padding = 0; padding < 16000; padding = padding * 5 + 1) {
		peer_sends_padded(l, DATA, "padded", 6, padding);
		we_get(l, DATA, "padded", 6);
		peer_sends_padded(l, ALERT, "\1\x5a", 2, padding);
		we_get(l, ALERT, "\1\x5a", 2);
	}
}

Test(ktls, padded_records, .timeout = 60)
{
	with_each(padded_records);
}

/* A record that is not genuine: refused, and then our alert still goes out. */
static void damaged_records(struct link *l)
{
	unsigned char type, room[8];

	l->forger.tx.sequence++; /* one was lost */
	peer_sends(l, DATA, "x", 1);
	cr_assert_eq(we_read(l, room, sizeof(room), &type), -EBADMSG);
	ktls_clear_error(l->fd[0]);
	cr_assert_not(ktls_clear_error(l->fd[0]), "once is enough");
	cr_assert_eq(ktls_write_record(l->fd[0], ALERT, "\2\x14", 2), 0);
	peer_gets(l, ALERT, "\2\x14", 2);
}

Test(ktls, damaged_records, .timeout = 60)
{
	with_each(damaged_records);
}

/* New keys, each way several times, with data before and behind. */
static void new_keys(struct link *l)
{
	static const char update[] = "\x18\0\0\1\0";

	for (int i = 0; l->version == KTLS_13 && ktls_support()->rekey && i < 5; i++) {
		unsigned char type = 0, room[8];

		cr_assert_eq(send(l->fd[0], "old", 3, MSG_NOSIGNAL), 3);
		cr_assert_eq(ktls_write_record(l->fd[0], HANDSHAKE, update, 5), 0);
		peer_gets(l, DATA, "old", 3);
		peer_gets(l, HANDSHAKE, update, 5);
		random_bytes(&l->forger.rx.keys, sizeof(l->forger.rx.keys));
		l->forger.rx.sequence = 0;
		cr_assert_eq(install(l, KTLS_SEND), 0);
		cr_assert_eq(send(l->fd[0], "new", 3, MSG_NOSIGNAL), 3);
		peer_gets(l, DATA, "new", 3);

		peer_sends(l, DATA, "old", 3);
		peer_sends(l, HANDSHAKE, update, 5);
		random_bytes(&l->forger.tx.keys, sizeof(l->forger.tx.keys));
		l->forger.tx.sequence = 0;
		peer_sends(l, DATA, "new", 3);
		we_get(l, DATA, "old", 3);
		we_get(l, HANDSHAKE, update, 5);
		cr_assert_eq(ktls_read(l->fd[0], room, sizeof(room), &type), -EKEYEXPIRED);
		l->forger.tx.sequence = 0;
		cr_assert_eq(install(l, KTLS_RECEIVE), 0);
		l->forger.tx.sequence = 1;
		we_get(l, DATA, "new", 3);
	}
	if (l->version == KTLS_12 || !ktls_support()->rekey)
		cr_assert(install(l, KTLS_SEND) < 0 && install(l, KTLS_RECEIVE) < 0);
}

Test(ktls, new_keys, .timeout = 60)
{
	with_each(new_keys);
}

/* One direction alone leaves the other as it is. */
Test(ktls, one_direction_alone, .timeout = 60)
{
	unsigned char type = 99;
	struct link l = {.version = KTLS_12, .forger = {.cipher = AEAD_AES_128_GCM, .explicit_nonce = true}};
	char room[8];

	ktls_probe();
	if (ktls_support()->error)
		cr_skip_test("this kernel has no TLS: %s", ktls_explain(ktls_support()->error));
	for (size_t d = 0; d < KTLS_DIRECTIONS; d++) {
		connected(l.fd);
		cr_assert_eq(ktls_attach(l.fd[0]), 0);
		cr_assert_eq(install(&l, directions[d]), 0);
		if (directions[d] == KTLS_SEND) {
			cr_assert_eq(send(l.fd[1], "plain", 5, MSG_NOSIGNAL), 5);
			cr_assert_eq(we_read(&l, room, sizeof(room), &type), 5);
			cr_assert(type == 0 && memcmp(room, "plain", 5) == 0);
		} else {
			cr_assert_eq(send(l.fd[0], "plain", 5, MSG_NOSIGNAL), 5);
			cr_assert_eq(recv(l.fd[1], room, sizeof(room), 0), 5);
			cr_assert_eq(memcmp(room, "plain", 5), 0);
		}
		link_down(&l);
	}
}
