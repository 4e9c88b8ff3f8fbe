/*
 * An OpenSSL engine for tests: RSA and ECDSA by an "accelerator", which is a thread that takes any number of jobs at a time and answers each of them
 * a while later. With OpenSSL's ASYNC jobs the caller is paused meanwhile, without them it waits.
 *
 * engineCtrl commands: DELAY_MS:N   each job takes so long
 *                      GATHER:N     no job is answered before so many wait at once
 *                      HOLD:FILE    no job is answered before the file is there
 *                      SLOW:KIND    only jobs of this kind (RSA or EC) are subject to that
 *                      NO_FD:1      names no descriptor to wait on
 *                      FDS:N        names so many
 *                      REPORT:FILE  the most jobs that have waited at once are written there
 * SPDX-License-Identifier: Apache-2.0
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/async.h>
#include <openssl/ec.h>
#include <openssl/engine.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int bind_engine(ENGINE *e, const char *id, const dynamic_fns *fns);
unsigned long v_check(unsigned long v);

enum { COMMAND_DELAY = ENGINE_CMD_BASE, COMMAND_GATHER, COMMAND_HOLD, COMMAND_SLOW, COMMAND_NO_FD, COMMAND_FDS, COMMAND_REPORT };
enum { FDS_MAX = 64, LOOK_MS = 2 };

static const ENGINE_CMD_DEFN commands[] = {
	{COMMAND_DELAY, "DELAY_MS", "milliseconds that a job takes", ENGINE_CMD_FLAG_NUMERIC},
	{COMMAND_GATHER, "GATHER", "jobs that must wait at once", ENGINE_CMD_FLAG_NUMERIC},
	{COMMAND_HOLD, "HOLD", "file that must be there", ENGINE_CMD_FLAG_STRING},
	{COMMAND_SLOW, "SLOW", "kind of the jobs: RSA or EC", ENGINE_CMD_FLAG_STRING},
	{COMMAND_NO_FD, "NO_FD", "name no descriptor", ENGINE_CMD_FLAG_NUMERIC},
	{COMMAND_FDS, "FDS", "descriptors to name", ENGINE_CMD_FLAG_NUMERIC},
	{COMMAND_REPORT, "REPORT", "file for the most jobs at once", ENGINE_CMD_FLAG_STRING},
	{0, NULL, NULL, 0},
};

static long delay_ms, gather, fds = 1;
static bool no_fd;
static char *hold, *slow, *report;

/* --- the accelerator ---------------------------------------------------------------------------------------------------------------- */

struct job {
	struct job *next;
	void (*work)(struct job *job);
	const char *kind;
	uint64_t due_ms;
	int fd; /* to tell, or -1 */
	bool done;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t answered;
	struct job *jobs;
	long waiting, most;
	long released; /* of those gathered, how many may still go */
	bool running;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER, .answered = PTHREAD_COND_INITIALIZER};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool may_go(const struct job *job)
{
	if (slow && strcmp(slow, job->kind) != 0)
		return true;
	if (hold && access(hold, F_OK) != 0)
		return false;
	return now_ms() >= job->due_ms && (gather == 0 || device.released > 0);
}

static void answer(struct job *job)
{
	uint64_t one = 1;
	int fd = job->fd;

	job->done = true; /* it may be gone once the lock is */
	device.waiting--;
	if (device.released > 0)
		device.released--;
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		abort();
	pthread_cond_broadcast(&device.answered);
}

static struct job *take(void)
{
	for (struct job **at = &device.jobs; *at; at = &(*at)->next) {
		struct job *job = *at;

		if (may_go(job)) {
			*at = job->next;
			return job;
		}
	}
	return NULL;
}

static void *device_main(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&device.lock);
	for (;;) {
		struct job *job;

		if (gather && device.waiting - device.released >= gather)
			device.released = device.waiting;
		job = take();
		pthread_mutex_unlock(&device.lock);
		if (job)
			job->work(job);
		else
			usleep(LOOK_MS * 1000);
		pthread_mutex_lock(&device.lock);
		if (job)
			answer(job);
	}
	return NULL;
}

static void write_report(void)
{
	FILE *file = report ? fopen(report, "w") : NULL;

	if (!file)
		return;
	fprintf(file, "%ld\n", device.most);
	fclose(file);
}

static void submit(struct job *job)
{
	pthread_t thread;

	job->due_ms = now_ms() + (uint64_t)delay_ms;
	pthread_mutex_lock(&device.lock);
	if (!device.running) {
		device.running = true;
		if (pthread_create(&thread, NULL, device_main, NULL) != 0)
			abort();
		pthread_detach(thread);
	}
	job->next = device.jobs;
	device.jobs = job;
	if (++device.waiting > device.most) {
		device.most = device.waiting;
		write_report();
	}
	pthread_mutex_unlock(&device.lock);
}

static bool is_done(struct job *job)
{
	bool done;

	pthread_mutex_lock(&device.lock);
	done = job->done;
	pthread_mutex_unlock(&device.lock);
	return done;
}

/* --- the driver --------------------------------------------------------------------------------------------------------------------- */

static const char keys[FDS_MAX]; /* their addresses are what wait contexts know descriptors by */

static void close_fd(ASYNC_WAIT_CTX *waiting, const void *key, OSSL_ASYNC_FD fd, void *custom)
{
	(void)waiting, (void)key, (void)custom;
	close(fd);
}

/* The descriptor of this connection; others that will never be readable come along. */
static int wait_fd(ASYNC_WAIT_CTX *waiting)
{
	int fd = -1;
	void *custom;

	for (long i = fds - 1; i >= 0; i--) {
		if (ASYNC_WAIT_CTX_get_fd(waiting, &keys[i], &fd, &custom) == 1)
			continue;
		fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (fd < 0 || ASYNC_WAIT_CTX_set_wait_fd(waiting, &keys[i], fd, NULL, close_fd) != 1)
			abort();
	}
	return fd;
}

static void run(struct job *job)
{
	ASYNC_JOB *paused = ASYNC_get_current_job();
	uint64_t count;

	job->fd = paused && !no_fd ? wait_fd(ASYNC_get_wait_ctx(paused)) : -1;
	submit(job);
	if (paused) {
		while (!is_done(job))
			ASYNC_pause_job();
		if (job->fd >= 0 && read(job->fd, &count, sizeof(count)) < 0)
			abort(); /* gone on without having been told */
		return;
	}
	pthread_mutex_lock(&device.lock);
	while (!job->done)
		pthread_cond_wait(&device.answered, &device.lock);
	pthread_mutex_unlock(&device.lock);
}

/* --- RSA ---------------------------------------------------------------------------------------------------------------------------- */

typedef int rsa_function(int n, const unsigned char *from, unsigned char *to, RSA *rsa, int padding);

struct rsa_job {
	struct job job;
	rsa_function *function;
	int n;
	const unsigned char *from;
	unsigned char *to;
	RSA *rsa;
	int padding, result;
};

static void rsa_work(struct job *job)
{
	struct rsa_job *r = (struct rsa_job *)job;

	r->result = r->function(r->n, r->from, r->to, r->rsa, r->padding);
}

static int rsa_run(rsa_function *function, int n, const unsigned char *from, unsigned char *to, RSA *rsa, int padding)
{
	struct rsa_job r = {{.work = rsa_work, .kind = "RSA"}, function, n, from, to, rsa, padding, -1};

	run(&r.job);
	return r.result;
}

static int rsa_encrypt(int n, const unsigned char *from, unsigned char *to, RSA *rsa, int padding)
{
	return rsa_run(RSA_meth_get_priv_enc(RSA_PKCS1_OpenSSL()), n, from, to, rsa, padding);
}

static int rsa_decrypt(int n, const unsigned char *from, unsigned char *to, RSA *rsa, int padding)
{
	return rsa_run(RSA_meth_get_priv_dec(RSA_PKCS1_OpenSSL()), n, from, to, rsa, padding);
}

/* --- ECDSA -------------------------------------------------------------------------------------------------------------------------- */

static int (*ec_sign_software)(int type, const unsigned char *dgst, int dlen, unsigned char *sig, unsigned int *siglen,
                               const BIGNUM *kinv, const BIGNUM *r, EC_KEY *eckey);

struct ec_job {
	struct job job;
	int type;
	const unsigned char *digest;
	int n;
	unsigned char *signature;
	unsigned *size;
	EC_KEY *key;
	int result;
};

static void ec_work(struct job *job)
{
	struct ec_job *e = (struct ec_job *)job;

	e->result = ec_sign_software(e->type, e->digest, e->n, e->signature, e->size, NULL, NULL, e->key);
}

static int ec_sign(int type, const unsigned char *digest, int n, unsigned char *signature, unsigned *size, const BIGNUM *kinv,
                   const BIGNUM *r, EC_KEY *key)
{
	struct ec_job e = {{.work = ec_work, .kind = "EC"}, type, digest, n, signature, size, key, 0};

	(void)kinv, (void)r;
	run(&e.job);
	return e.result;
}

/* --- the engine --------------------------------------------------------------------------------------------------------------------- */

static int control(ENGINE *e, int command, long number, void *pointer, void (*function)(void))
{
	(void)e, (void)function;
	switch (command) {
	case COMMAND_DELAY: delay_ms = number; return 1;
	case COMMAND_GATHER: gather = number; return 1;
	case COMMAND_HOLD: hold = strdup(pointer); return 1;
	case COMMAND_SLOW: slow = strdup(pointer); return 1;
	case COMMAND_NO_FD: no_fd = number; return 1;
	case COMMAND_FDS: fds = number > 0 && number <= FDS_MAX ? number : 1; return 1;
	case COMMAND_REPORT: report = strdup(pointer); return 1;
	default: return 0;
	}
}

static RSA_METHOD *rsa_method(void)
{
	RSA_METHOD *method = RSA_meth_dup(RSA_PKCS1_OpenSSL());

	if (!method || !RSA_meth_set1_name(method, "slow RSA") || !RSA_meth_set_priv_enc(method, rsa_encrypt) ||
	    !RSA_meth_set_priv_dec(method, rsa_decrypt))
		return NULL;
	return method;
}

static EC_KEY_METHOD *ec_method(void)
{
	EC_KEY_METHOD *method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
	int (*setup)(EC_KEY *eckey, BN_CTX *ctx, BIGNUM **kinv, BIGNUM **r);
	ECDSA_SIG *(*sign)(const unsigned char *dgst, int dgst_len, const BIGNUM *kinv, const BIGNUM *r, EC_KEY *eckey);

	if (!method)
		return NULL;
	EC_KEY_METHOD_get_sign(method, &ec_sign_software, &setup, &sign);
	EC_KEY_METHOD_set_sign(method, ec_sign, setup, sign);
	return method;
}

static int bind(ENGINE *e, const char *id)
{
	if (id && strcmp(id, "slowsign") != 0)
		return 0;
	return ENGINE_set_id(e, "slowsign") && ENGINE_set_name(e, "slow signatures by another thread") &&
	       ENGINE_set_RSA(e, rsa_method()) && ENGINE_set_EC(e, ec_method()) && ENGINE_set_cmd_defns(e, commands) &&
	       ENGINE_set_ctrl_function(e, control);
}

IMPLEMENT_DYNAMIC_BIND_FN(bind)
IMPLEMENT_DYNAMIC_CHECK_FN()
