/*
 * The registry of counters: services by name and role, each with one set of counters per worker.
 * Workers write their own set without a lock; the lock guards the registry and what the process notes about itself.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stats.h"

#include "list.h"
#include "stats_view.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { BUCKETS = 1024 }; /* a reload looks up every service for every worker, and there may be thousands */

/* A service in one role. */
struct row {
	struct list link; /* in order of appearance */
	struct row *next; /* in the same bucket */
	char *name, *role;
	bool current;
	struct stats *workers; /* one per worker */
};

static struct {
	pthread_mutex_t lock;
	unsigned workers;
	struct list rows;
	struct row *buckets[BUCKETS]; /* the same rows by name */
	struct timespec started;
	uint64_t reloads_ok, reloads_failed;
	uint64_t renewals_ok, renewals_failed;
	bool last_reload_ok;
	time_t last_ok;
} registry = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.rows = {&registry.rows, &registry.rows},
};

int stats_start(unsigned workers)
{
	assert(workers && !registry.workers);
	registry.workers = workers;
	clock_gettime(CLOCK_MONOTONIC, &registry.started);
	return 0;
}

/* FNV-1a. The names are the operator's own: nobody gains by collisions. */
static struct row **bucket_of(const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619u;
	return &registry.buckets[hash % BUCKETS];
}

static void row_free(struct row *row)
{
	free(row->name);
	free(row->role);
	free(row->workers);
	free(row);
}

/* An array of zeroed counters, one per worker, each on cache lines of its own. */
static struct stats *workers_new(void)
{
	size_t size = sizeof(struct stats) * registry.workers;
	void *counters;

	if (posix_memalign(&counters, _Alignof(struct stats), size) != 0)
		return NULL;
	return memset(counters, 0, size);
}

static struct row *row_new(const char *name, const char *role)
{
	struct row *row = calloc(1, sizeof(*row));

	if (!row)
		return NULL;
	row->name = strdup(name);
	row->role = strdup(role);
	row->workers = workers_new();
	if (!row->name || !row->role || !row->workers) {
		row_free(row);
		return NULL;
	}
	row->next = *bucket_of(name);
	*bucket_of(name) = row;
	list_append(&registry.rows, &row->link);
	return row;
}

static struct row *row_find(const char *name, const char *role)
{
	struct row *row = *bucket_of(name);

	while (row && (strcmp(row->name, name) != 0 || strcmp(row->role, role) != 0))
		row = row->next;
	return row;
}

struct stats *stats_of(const char *service, const char *role, unsigned worker)
{
	struct row *row;

	assert(worker < registry.workers);
	pthread_mutex_lock(&registry.lock);
	row = row_find(service, role);
	if (!row)
		row = row_new(service, role);
	pthread_mutex_unlock(&registry.lock);
	return row ? &row->workers[worker] : NULL;
}

static void mark_current(const char *service, const char *role)
{
	struct row *row = row_find(service, role);

	if (row)
		row->current = true;
}

void stats_set_current(const char *const *services, unsigned count)
{
	pthread_mutex_lock(&registry.lock);
	list_each(it, next, &registry.rows)
		container_of(it, struct row, link)->current = false;
	for (unsigned i = 0; i < count; i++) {
		mark_current(services[i], "server");
		mark_current(services[i], "client");
	}
	pthread_mutex_unlock(&registry.lock);
}

void stats_note_reload(int ok)
{
	pthread_mutex_lock(&registry.lock);
	registry.last_reload_ok = ok;
	if (ok) {
		registry.reloads_ok++;
		registry.last_ok = time(NULL);
	} else {
		registry.reloads_failed++;
	}
	pthread_mutex_unlock(&registry.lock);
}

void stats_note_renewal(bool ok)
{
	pthread_mutex_lock(&registry.lock);
	if (ok)
		registry.renewals_ok++;
	else
		registry.renewals_failed++;
	pthread_mutex_unlock(&registry.lock);
}

/* ---- what the printers see ---- */

static void row_sum(const struct row *row, struct stats_view *view)
{
	*view = (struct stats_view){.service = row->name, .role = row->role, .current = row->current};
	for (unsigned i = 0; i < registry.workers; i++) {
		struct stats *stats = &row->workers[i];

#define X(name, metric, kind, help) view->of[STATS_##name] += atomic_load_explicit(&stats->name, memory_order_relaxed);
		STATS_COUNTERS(X)
#undef X
		for (int d = 0; d < KTLS_DIRECTIONS; d++)
			for (int o = 0; o < KTLS_OUTCOME_COUNT; o++)
				view->ktls[d][o] += atomic_load_explicit(&stats->ktls[d][o], memory_order_relaxed);
	}
}

void stats_each(void (*fn)(const struct stats_view *view, void *arg), void *arg)
{
	struct stats_view view;

	pthread_mutex_lock(&registry.lock);
	list_each(it, next, &registry.rows) {
		row_sum(container_of(it, struct row, link), &view);
		fn(&view, arg);
	}
	pthread_mutex_unlock(&registry.lock);
}

static double uptime(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - registry.started.tv_sec) + (double)(now.tv_nsec - registry.started.tv_nsec) / 1e9;
}

static double cpu_time(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage) != 0)
		return 0;
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static long long resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long long pages = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%*d %lld", &pages) != 1)
		pages = -1;
	fclose(file);
	return pages < 0 ? -1 : pages * sysconf(_SC_PAGESIZE);
}

static long long open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	long long count = -3; /* ".", ".." and the directory itself */

	if (!dir)
		return -1;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

void stats_process(struct stats_process *process)
{
	*process = (struct stats_process){
		.uptime_s = uptime(), .cpu_s = cpu_time(), .resident = resident_bytes(), .open_files = open_files()};
	pthread_mutex_lock(&registry.lock);
	process->reloads_ok = registry.reloads_ok;
	process->reloads_failed = registry.reloads_failed;
	process->renewals_ok = registry.renewals_ok;
	process->renewals_failed = registry.renewals_failed;
	process->last_reload_ok = registry.last_reload_ok;
	process->last_ok = registry.last_ok;
	pthread_mutex_unlock(&registry.lock);
}
