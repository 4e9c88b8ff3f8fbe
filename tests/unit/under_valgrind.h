/*
 * Whether the test runs under valgrind, where time passes more slowly and some things cannot be had.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNDER_VALGRIND_H
#define UNDER_VALGRIND_H

#include <stdbool.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

static inline bool valgrind(void)
{
	return RUNNING_ON_VALGRIND;
}

#endif
