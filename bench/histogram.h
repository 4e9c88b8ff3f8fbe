/*
 * Latencies of a bench run: a histogram with 64 steps per power of two, in units of 100 ns, so that any percentile is right to 1.6 %.
 * Included by bench/load_client.h only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_BENCH_HISTOGRAM_H
#define TLSPLICE_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, BUCKETS = 40 * STEPS };
static uint64_t histogram[BUCKETS];

static unsigned bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < STEPS)
		return (unsigned)value;
	shift = 63 - STEP_BITS - (unsigned)__builtin_clzll(value);
	return (shift + 1) * STEPS + (unsigned)((value >> shift) - STEPS);
}

static uint64_t bucket_value(unsigned bucket)
{
	if (bucket < STEPS)
		return bucket;
	return (uint64_t)(STEPS + bucket % STEPS) << (bucket / STEPS - 1);
}

static void latency_add(uint64_t ns)
{
	unsigned b = bucket_of(ns / 100);

	histogram[b < BUCKETS ? b : BUCKETS - 1]++;
}

/* Microseconds that the given share of all units stayed under. */
static double latency_at(double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned b = 0; b < BUCKETS; b++)
		total += histogram[b];
	for (unsigned b = 0; b < BUCKETS; b++) {
		seen += histogram[b];
		if (total && (double)seen >= share * (double)total)
			return (double)bucket_value(b) / 10;
	}
	return 0;
}

#endif
