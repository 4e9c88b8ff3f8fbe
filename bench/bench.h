/*
 * What the programs of the bench share: a clock, a way to give up, number arguments, and the bytes every body is made of.
 * Included by bench/load.c, bench/origin.c and bench/floor.c only; each of them is a program of its own.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_BENCH_H
#define TLSPLICE_BENCH_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

/* Byte i of every body is pattern[i % PATTERN_SIZE]; a whole second copy lets a window of PATTERN_SIZE start anywhere in it. */
enum { PATTERN_SIZE = 1 << 18 };

static unsigned char pattern[2 * PATTERN_SIZE];

static inline void pattern_fill(void)
{
	uint64_t x = 0x9e3779b97f4a7c15u;

	for (size_t i = 0; i < PATTERN_SIZE; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		pattern[i] = (unsigned char)(x >> 32);
	}
	memcpy(pattern + PATTERN_SIZE, pattern, PATTERN_SIZE);
}

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* A whole number between 1 and max, or the end of the program with a sentence that names the argument. */
static inline unsigned long number(const char *what, const char *text, unsigned long max)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < 1 || value > max)
		die("%s: \"%s\" is not a number between 1 and %lu", what, text, max);
	return value;
}

/* As many descriptors as this process may have. */
static inline void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

#endif
