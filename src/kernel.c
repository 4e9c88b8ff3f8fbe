/*
 * The report on the kernel: see kernel.h. A line says what it is about, what was found, and what tlsplice does because of it.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "kernel.h"

#include "coro_stack.h"
#include "daemon.h"
#include "ring.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { PIPE_PAGES = 16 }; /* of a pipe as it comes */

/* --- finding ------------------------------------------------------------------------------------------------------------------------ */

long kernel_number_in(const char *path)
{
	FILE *file = fopen(path, "re");
	char text[32] = "";
	bool read;

	if (!file)
		return -1;
	read = fgets(text, sizeof(text), file) != NULL;
	fclose(file);
	return read ? strtol(text, NULL, 10) : -1;
}

static bool has_word(const char *line, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = strstr(line, word); at; at = strstr(at + n, word))
		if (at[-1] == ' ' && (at[n] == ' ' || at[n] == '\n' || !at[n]))
			return true;
	return false;
}

/* x86 says "flags", ARM "Features". */
static void find_processor(struct kernel_found *found)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char *line = NULL;
	size_t size = 0;

	while (file && getline(&line, &size, file) > 0) {
		if (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0)
			continue;
		found->aes = has_word(line, "aes");
		found->vaes = has_word(line, "vaes");
		break;
	}
	free(line);
	if (file)
		fclose(file);
}

/* Of the drivers for gcm(aes) the kernel takes the one of the highest priority; it is in the list once somebody has asked for it. */
static void find_gcm(struct kernel_found *found)
{
	FILE *file = fopen("/proc/crypto", "re");
	char line[256], name[128] = "", driver[128] = "";
	long priority, best = -1;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "name : %127[^\n]", name) == 1 || sscanf(line, "driver : %127[^\n]", driver) == 1)
			continue;
		if (sscanf(line, "priority : %ld", &priority) == 1 && strcmp(name, "gcm(aes)") == 0 && priority > best) {
			best = priority;
			memcpy(found->gcm, driver, sizeof(driver));
		}
	}
	if (file)
		fclose(file);
}

static bool may_be_transparent(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
	bool may = fd >= 0 && setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &yes, sizeof(yes)) == 0;

	if (fd >= 0)
		close(fd);
	return may;
}

static long long limit_of(__rlimit_resource_t resource)
{
	struct rlimit limit;

	return getrlimit(resource, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY ? -1 : (long long)limit.rlim_cur;
}

void kernel_find(struct kernel_found *found)
{
	struct utsname name;

	*found = (struct kernel_found){0};
	uname(&name);
	snprintf(found->release, sizeof(found->release), "%s", name.release);
	snprintf(found->machine, sizeof(found->machine), "%s", name.machine);
	ring_probe(&found->ring);
	ktls_probe();
	found->ktls = *ktls_support();
	for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++)
		found->accelerated[cipher] = aead_is_accelerated((enum aead_cipher)cipher);
	find_processor(found);
	find_gcm(found); /* after ktls_probe(), which asks for it */
	found->guard_pages = stack_guard_probe();
	found->transparent = may_be_transparent();
	found->uring_disabled = kernel_number_in("/proc/sys/kernel/io_uring_disabled");
	found->pipe_pages_soft = kernel_number_in("/proc/sys/fs/pipe-user-pages-soft");
	found->memlock = limit_of(RLIMIT_MEMLOCK);
	found->clients = process_limits(); /* raises the limit of descriptors, as at a start */
	found->descriptors = limit_of(RLIMIT_NOFILE);
}

/* --- printing ----------------------------------------------------------------------------------------------------------------------- */

static void line(FILE *out, const char *what, const char *there, const char *use)
{
	fprintf(out, "  %-29s  %-29s  %s\n", what, there, use);
}

static void print_yes(FILE *out, const char *what, bool there, const char *use, const char *otherwise)
{
	line(out, what, there ? "yes" : "no", there ? use : otherwise);
}

/* What each feature of the ring is good for here; kernel-notes/ has the reasons. */
static const struct {
	const char *name, *use, *otherwise;
} features[RING_FEATURES] = {
	[RING_DEFER_TASKRUN] = {"SINGLE_ISSUER, DEFER_TASKRUN", "used: one ring for each worker",
                                "tlsplice does not start without it"},
	[RING_REGISTERED] = {"registered ring descriptor", "used: saves a look-up in each system call", "done without"},
	[RING_BUFFERS] = {"rings of provided buffers", "used: a receive takes memory only when bytes come",
                          "tlsplice does not start without it"},
	[RING_ACCEPT_MANY] = {"multishot accept", "used", "tlsplice does not work without it"},
	[RING_RECV_MANY] = {"multishot recv", "used for messages; bulk is asked for one receive at a time",
                            "tlsplice does not work without it"},
	[RING_RECVMSG_MANY] = {"multishot recvmsg", "used on sockets of kernel TLS: completions name the record type",
                               "kernel TLS cannot be used without it"},
	[RING_BUNDLES] = {"bundles of buffers", "not used: one chunk and one record at a time", "not used"},
	[RING_INCREMENTAL] = {"incremental buffers", "not used: every receive has a chunk of its own", "not used"},
	[RING_SEND_ZC] = {"SEND_ZC", "not used: kernel TLS refuses it, and local transfers copy anyway", "not used"},
	[RING_SPLICE] = {"SPLICE", "for relay = uring-splice alone: it takes a thread of the kernel",
                         "relay = uring-splice cannot be used"},
	[RING_SETSOCKOPT] = {"setsockopt as an operation", "not used: keys are installed by setsockopt(2)", "not used"},
};

static void print_ring(FILE *out, const struct kernel_found *found)
{
	static const char *const disabled[] = {"0", "1", "2"};
	long n = found->uring_disabled;

	fprintf(out, "\nio_uring\n");
	line(out, "kernel.io_uring_disabled", n < 0 || n > 2 ? "not there" : disabled[n],
	     n == 0   ? "io_uring is for everybody"
	     : n == 1 ? "io_uring is for the privileged and kernel.io_uring_group"
	     : n == 2 ? "io_uring is for nobody"
	              : "kernels before Linux 6.6 have no such switch");
	if (found->ring.error) {
		line(out, "a ring", "no", "tlsplice does not start");
		return;
	}
	for (int i = 0; i < RING_FEATURES; i++)
		print_yes(out, features[i].name, found->ring.has[i], features[i].use, features[i].otherwise);
}

static bool every_way(const struct ktls_support *ktls, int version, int cipher)
{
	return ktls->cipher[KTLS_SEND][version][cipher] && ktls->cipher[KTLS_RECEIVE][version][cipher];
}

/*
 * What `ktls = auto` comes to. The policy in words: TLS 1.2 goes to the kernel where the kernel has the cipher. TLS 1.3 only where the kernel
 * takes new keys, since a peer may send a KeyUpdate at any time, and then a connection in the kernel could not go on. And neither where user
 * space has faster code for the cipher.
 */
static const char *automatic(const struct kernel_found *found, int cipher)
{
	const struct ktls_support *ktls = &found->ktls;
	bool old = every_way(ktls, KTLS_12, cipher), new = every_way(ktls, KTLS_13, cipher);

	if (found->accelerated[cipher])
		return "ktls = auto: in user space, which is faster with it";
	if (new && ktls->rekey)
		return old ? "ktls = auto: in the kernel" : "ktls = auto: TLS 1.3 in the kernel, TLS 1.2 in user space";
	if (old)
		return "ktls = auto: TLS 1.2 in the kernel, TLS 1.3 in user space";
	return "ktls = auto: in user space";
}

static void print_cipher(FILE *out, const struct kernel_found *found, int cipher)
{
	const struct ktls_support *ktls = &found->ktls;
	static const char *const versions[2][2] = {{"-", "1.3"}, {"1.2", "1.2 1.3"}};
	char text[64];

	snprintf(text, sizeof(text), "send %s, receive %s",
	         versions[ktls->cipher[KTLS_SEND][KTLS_12][cipher]][ktls->cipher[KTLS_SEND][KTLS_13][cipher]],
	         versions[ktls->cipher[KTLS_RECEIVE][KTLS_12][cipher]][ktls->cipher[KTLS_RECEIVE][KTLS_13][cipher]]);
	line(out, ktls_cipher_name((enum aead_cipher)cipher), text, automatic(found, cipher));
}

static void print_ktls(FILE *out, const struct kernel_found *found)
{
	const struct ktls_support *ktls = &found->ktls;

	fprintf(out, "\nkernel TLS\n");
	if (ktls->error) {
		line(out, "sockets with TLS", "no", "all records in user space, whatever the option ktls says");
		fprintf(out, "  %s\n", ktls_explain(ktls->error));
		return;
	}
	line(out, "sockets with TLS", "yes", "used as the option ktls says");
	for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++)
		print_cipher(out, found, cipher);
	print_yes(out, "new keys after a KeyUpdate", ktls->rekey, "ktls = auto includes TLS 1.3",
	          "ktls = auto leaves TLS 1.3 in user space (Linux 6.14 can)");
	line(out, "ktls = yes, tx or rx", "",
	     ktls->rekey ? "always in the kernel, where a KeyUpdate changes the keys"
	                 : "always in the kernel; a KeyUpdate ends it cleanly, and is logged");
	print_yes(out, "TLS_RX_EXPECT_NO_PAD", ktls->no_pad, "used: TLS 1.3 is decrypted straight into our memory",
	          "done without: a copy more for TLS 1.3");
	print_yes(out, "poll tells of partial records", ktls->tells_partial,
	          "now and then a wake-up for nothing (before Linux 6.12)", "a socket is readable when a record is whole");
}

static const char *gcm_speed(const char *driver)
{
	if (!*driver)
		return "not known: /proc/crypto does not say";
	if (strstr(driver, "vaes"))
		return "the processor's vector AES";
	if (strstr(driver, "aesni") || strstr(driver, "aes-ce"))
		return "the processor's AES";
	if (strstr(driver, "generic") && strstr(driver, "gcm_base"))
		return "plain C: kernel TLS is slow here, consider ktls = no";
	return "whatever this driver drives";
}

static void print_crypto(FILE *out, const struct kernel_found *found)
{
	fprintf(out, "\nciphers\n");
	line(out, "the processor's AES",
	     found->vaes  ? "AES, vector AES"
	     : found->aes ? "AES"
	                  : "not seen",
	     "the libraries use it for records in user space");
	line(out, "the kernel's gcm(aes)", *found->gcm ? found->gcm : "-", gcm_speed(found->gcm));
}

static const char *number(char *text, size_t size, long long n, const char *none)
{
	if (n < 0)
		return none;
	snprintf(text, size, "%lld", n);
	return text;
}

static void print_memory(FILE *out, const struct kernel_found *found)
{
	long soft = found->pipe_pages_soft;
	char text[32], use[128];

	fprintf(out, "\nmemory and limits\n");
	print_yes(out, "MADV_GUARD_INSTALL", found->guard_pages, "used: guard pages of stacks cost no mapping",
	          "mprotect(2) instead: vm.max_map_count limits handshakes in flight");
	snprintf(use, sizeof(use), "room for %u connections", found->clients);
	line(out, "descriptors (ulimit -n)", number(text, sizeof(text), found->descriptors, "no limit"), use);
	line(out, "locked memory (ulimit -l)", number(text, sizeof(text), found->memlock, "no limit"),
	     "some kernels count 200 KiB for each worker (6.18 does)");
	snprintf(use, sizeof(use), "%ld pipes of 64 KiB for relay = splice, further ones are smaller", soft / PIPE_PAGES);
	line(out, "fs.pipe-user-pages-soft", number(text, sizeof(text), soft, "not there"),
	     soft > 0 ? use : "pipes for relay = splice without limit");
	print_yes(out, "IP_TRANSPARENT", found->transparent, "allowed, for the option transparent",
	          "not allowed: the option transparent needs CAP_NET_ADMIN");
}

void kernel_print(FILE *out, const struct kernel_found *found)
{
	fprintf(out, "tlsplice %s on Linux %s, %s\n", TLSPLICE_VERSION, found->release, found->machine);
	print_ring(out, found);
	print_ktls(out, found);
	print_crypto(out, found);
	print_memory(out, found);
	if (found->ring.error)
		fprintf(out, "\n%s\n", ring_explain(found->ring.error));
}

bool kernel_report(FILE *out)
{
	struct kernel_found found;

	signal(SIGPIPE, SIG_IGN); /* where the loopback interface is down */
	kernel_find(&found);
	kernel_print(out, &found);
	return !found.ring.error;
}
