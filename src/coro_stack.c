/*
 * Memory for coroutine stacks: a mapping with a guard page below, and the measuring of how deep a stack was used.
 * coro.c only may call it. kernel-notes/coroutines.md has the figures.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "coro_stack.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

enum { PAINT = 0xa5 };

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static void *map_anonymous(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
}

/* Emulators take advice they do not know for a hint and say 0: believe it only when the page can no longer be read. */
bool stack_guard_probe(void)
{
	size_t page = page_size();
	void *p = map_anonymous(page);
	bool works;

	if (p == MAP_FAILED)
		return false;
	works = madvise(p, page, MADV_GUARD_INSTALL) == 0 && madvise(p, page, MADV_POPULATE_READ) != 0 && errno == EFAULT;
	munmap(p, page);
	return works;
}

size_t stack_round(size_t size)
{
	size_t page = page_size();

	return (size + page - 1) / page * page;
}

/* Linux installs no guards in locked memory (EINVAL after mlockall, seen with 6.18): mprotect(2) is left, at two mappings a stack. */
static int guard(void *p, size_t page, bool install)
{
	if (install && madvise(p, page, MADV_GUARD_INSTALL) == 0)
		return 0;
	return mprotect(p, page, PROT_NONE) == 0 ? 0 : -errno;
}

int stack_map(struct stack *stack, size_t size, bool guard_install)
{
	size_t page = page_size();
	char *p = map_anonymous(page + size);
	int err;

	if (p == MAP_FAILED)
		return -errno;
	/* Neighbouring stacks merge into one mapping; a huge page under them would cost 2 MB for one conversation. Linux 6.7 reads MAP_STACK so. */
	(void)madvise(p, page + size, MADV_NOHUGEPAGE);
	err = guard(p, page, guard_install);
	if (err != 0) {
		munmap(p, page + size);
		return err;
	}
	*stack = (struct stack){.low = p + page, .size = size};
	return 0;
}

int stack_unmap(const struct stack *stack)
{
	size_t page = page_size();

	return munmap(stack->low - page, page + stack->size) == 0 ? 0 : -errno;
}

void stack_paint(const struct stack *stack, const char *top)
{
	memset(stack->low, PAINT, (size_t)(top - stack->low));
}

size_t stack_depth(const struct stack *stack, const char *top)
{
	const char *p = stack->low;

	assert(top > p && top <= stack->low + stack->size);
	while (p < top && *(const unsigned char *)p == PAINT)
		p++;
	return (size_t)(top - p);
}
