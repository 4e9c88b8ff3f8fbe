/*
 * Preloaded into the proxy by tests/e2e/test_faults.py: allocations fail and name lookups take their time when the test says so.
 * Built by that test: cc -shared -fPIC. The test writes to the file FAULTS_FILE, which lies in memory here and there.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Eight bytes each: the test knows the order. */
struct orders {
	_Atomic int64_t left;	/* allocations until one fails; 0 or less: none does */
	_Atomic int64_t failed; /* so many have */
	_Atomic int64_t lookup_ms;
	_Atomic int64_t lookups; /* begun */
	_Atomic int64_t spare_openssl; /* not 0: its own allocations are not counted */
};

/* Where libcrypto and libssl lie. */
static struct {
	uintptr_t start, end;
} openssl[2];

static struct orders none;
static struct orders *orders = &none;

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static int (*real_getaddrinfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int note_library(struct dl_phdr_info *info, size_t size, void *unused)
{
	int which = strstr(info->dlpi_name, "libcrypto.so") ? 0 : 1;

	(void)size;
	(void)unused;
	if (which == 1 && !strstr(info->dlpi_name, "libssl.so"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;

		if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
			openssl[which].start = start;
			openssl[which].end = start + info->dlpi_phdr[i].p_memsz;
		}
	}
	return 0;
}

static bool is_openssl(uintptr_t caller)
{
	return (caller >= openssl[0].start && caller < openssl[0].end) || (caller >= openssl[1].start && caller < openssl[1].end);
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FAULTS_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *memory = fd >= 0 ? mmap(NULL, sizeof(*orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;

	if (memory != MAP_FAILED)
		orders = memory;
	close(fd);
	dl_iterate_phdr(note_library, NULL);
}

/* The next definition of a function, looked up once. Casting to void ** is what dlsym(3) says. */
#define REAL(name)                                                   \
	do {                                                         \
		if (!real_##name)                                    \
			*(void **)&real_##name = dlsym(RTLD_NEXT, #name); \
	} while (0)

static bool fails(void *caller)
{
	if (atomic_load(&orders->left) <= 0 || (atomic_load(&orders->spare_openssl) && is_openssl((uintptr_t)caller)))
		return false;
	if (atomic_fetch_sub(&orders->left, 1) != 1)
		return false;
	atomic_fetch_add(&orders->failed, 1);
	errno = ENOMEM;
	return true;
}

void *malloc(size_t n)
{
	REAL(malloc);
	return fails(__builtin_return_address(0)) ? NULL : real_malloc(n);
}

void *calloc(size_t count, size_t n)
{
	REAL(calloc);
	return fails(__builtin_return_address(0)) ? NULL : real_calloc(count, n);
}

void *realloc(void *old, size_t n)
{
	REAL(realloc);
	return fails(__builtin_return_address(0)) ? NULL : real_realloc(old, n);
}

void *aligned_alloc(size_t align, size_t n)
{
	REAL(aligned_alloc);
	return fails(__builtin_return_address(0)) ? NULL : real_aligned_alloc(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
	REAL(posix_memalign);
	return fails(__builtin_return_address(0)) ? ENOMEM : real_posix_memalign(out, align, n);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	int64_t ms = atomic_load(&orders->lookup_ms);

	REAL(getaddrinfo);
	atomic_fetch_add(&orders->lookups, 1);
	if (ms > 0)
		usleep((useconds_t)ms * 1000);
	return real_getaddrinfo(host, service, hints, found);
}
