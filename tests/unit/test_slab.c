/*
 * Unit tests of slab.h: alignment, order of reuse, return of memory, and a random run against a model.
 * Run by `make unit`; the poisoning is tested where the compiler has AddressSanitizer on.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "slab.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __has_feature /* clang; gcc defines these itself */
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

Test(slab, null_is_fine)
{
	struct slab *slab = slab_new(10, 1, 4);

	slab_put(slab, NULL);
	slab_free(slab);
	slab_free(NULL);
}

Test(slab, too_large_is_refused)
{
	cr_assert_null(slab_new(SIZE_MAX - 10, 8, 2));
	cr_assert_null(slab_new(1 << 20, 8, SIZE_MAX / 1024));
}

Test(slab, no_memory)
{
	struct slab *slab = slab_new((size_t)1 << 50, 64, 1);

	cr_assert_not_null(slab);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they end the process instead */
	cr_assert_null(slab_get(slab));
#endif
	cr_assert_eq(slab_used(slab), 0);
	slab_free(slab);
}

Test(slab, every_alignment)
{
	for (size_t align = 1; align <= 4096; align *= 2)
		for (size_t size = 1; size < 200; size += 13) {
			struct slab *slab = slab_new(size, align, 3);
			char *objects[7];

			for (size_t i = 0; i < 7; i++) {
				objects[i] = slab_get(slab);
				cr_assert_not_null(objects[i]);
				cr_assert_eq((uintptr_t)objects[i] % align, 0);
				memset(objects[i], (int)i, size);
			}
			for (size_t i = 0; i < 7; i++) {
				cr_assert_eq(objects[i][0], (char)i);
				cr_assert_eq(objects[i][size - 1], (char)i);
				slab_put(slab, objects[i]);
			}
			slab_free(slab);
		}
}

Test(slab, most_recently_freed_first)
{
	struct slab *slab = slab_new(100, 8, 8);
	void *a = slab_get(slab), *b = slab_get(slab), *c = slab_get(slab);

	slab_put(slab, a);
	slab_put(slab, c);
	slab_put(slab, b);
	cr_assert_eq(slab_get(slab), b);
	cr_assert_eq(slab_get(slab), c);
	cr_assert_eq(slab_get(slab), a);
	cr_assert_eq(slab_used(slab), 3);
	slab_put(slab, a);
	slab_put(slab, b);
	slab_put(slab, c);
	slab_free(slab);
}

/* Random gets and puts; each object keeps a pattern of its own while it is handed out. */
Test(slab, random_against_a_model)
{
	enum { OBJECTS = 300, SIZE = 72 };
	struct slab *slab = slab_new(SIZE, 64, 10);
	unsigned char *objects[OBJECTS] = {0};
	size_t used = 0;

	srandom(2);
	for (int step = 0; step < 200000; step++) {
		size_t i = (size_t)random() % OBJECTS;

		if (objects[i]) {
			for (size_t k = 0; k < SIZE; k++)
				cr_assert_eq(objects[i][k], i & 0xff);
			slab_put(slab, objects[i]);
			objects[i] = NULL;
			used--;
		} else if (random() % 100 < 30 + 60 * (step / 20000 % 2)) { /* grows, shrinks, grows ... */
			objects[i] = slab_get(slab);
			memset(objects[i], (int)(i & 0xff), SIZE);
			used++;
		}
		cr_assert_eq(slab_used(slab), used);
	}
	for (size_t i = 0; i < OBJECTS; i++)
		slab_put(slab, objects[i]);
	cr_assert_eq(slab_used(slab), 0);
	slab_free(slab);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static size_t resident_pages(void)
{
	size_t size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	cr_assert_not_null(file);
	cr_assert_eq(fscanf(file, "%zu %zu", &size, &resident), 2);
	fclose(file);
	return resident;
}

Test(slab, free_batches_go_back_to_the_system)
{
	enum { OBJECTS = 4096, SIZE = 16384 }; /* 64 MiB, in batches that malloc maps one by one */
	struct slab *slab = slab_new(SIZE, 64, 64);
	void **objects = calloc(OBJECTS, sizeof(*objects));
	size_t before = resident_pages(), full, after;

	for (size_t i = 0; i < OBJECTS; i++)
		memset(objects[i] = slab_get(slab), 1, SIZE);
	full = resident_pages();
	for (size_t i = 0; i < OBJECTS; i++)
		slab_put(slab, objects[i]);
	malloc_trim(0);
	after = resident_pages();
	cr_assert_gt(full - before, 12000);
	cr_assert_lt(after, full); /* an allocator may keep some of it a while, but not be given nothing */
	slab_free(slab);
	free(objects);
}
#endif

#if defined(__SANITIZE_ADDRESS__)
Test(slab, freed_objects_are_poisoned)
{
	struct slab *slab = slab_new(100, 8, 4);
	char *object = slab_get(slab);

	cr_assert(!__asan_region_is_poisoned(object, 100));
	slab_put(slab, object);
	cr_assert_eq(__asan_region_is_poisoned(object, 100), object);
	cr_assert_eq(slab_get(slab), object);
	cr_assert(!__asan_region_is_poisoned(object, 100));
	slab_put(slab, object);
	slab_free(slab);
}
#endif

Test(slab, a_double_free_is_caught, .signal = SIGABRT)
{
	struct slab *slab = slab_new(100, 8, 4);
	void *object = slab_get(slab);

	slab_put(slab, object);
	slab_put(slab, object);
}

Test(slab, an_object_still_out_is_caught, .signal = SIGABRT)
{
	struct slab *slab = slab_new(100, 8, 4);

	cr_assert_not_null(slab_get(slab));
	slab_free(slab);
}
