/*
 * Engines: see tls_engine.h. OpenSSL calls them deprecated, and Debian's pkcs11 and Intel's QAT are still used as such.
 * SPDX-License-Identifier: Apache-2.0
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "tls_engine.h"

#include "log.h"
#include "tls.h"
#include "tls_prompt.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <string.h>
#include <strings.h>

#ifdef OPENSSL_NO_ENGINE

static const char none[] = "This OpenSSL has been built without engines: see \"provider\"";

const char *tls_engine_open(const char *id)
{
	(void)id;
	return none;
}

const char *tls_engine_control(const char *command)
{
	(void)command;
	return none;
}

const char *tls_engine_default(const char *tasks)
{
	(void)tasks;
	return none;
}

void tls_engine_settle(void)
{
}

unsigned tls_engine_count(void)
{
	return 0;
}

unsigned tls_engine_find(const char *id)
{
	(void)id;
	return 0;
}

X509 *tls_engine_cert(unsigned number, const char *id)
{
	(void)number, (void)id;
	return NULL;
}

EVP_PKEY *tls_engine_key(unsigned number, const char *id, UI_METHOD *ui)
{
	(void)number, (void)id, (void)ui;
	return NULL;
}

#else

#include <openssl/engine.h>

enum { ENGINES_MAX = 256 };

static struct {
	ENGINE *engine;
	bool settled; /* initialised, or tried to */
	bool ready;
} engines[ENGINES_MAX];
static unsigned count;

/* Lines that the engine in hand logs: "#n (ID)". */
#define NAME(i) (i) + 1, ENGINE_get_id(engines[i].engine)

/* --- what an engine has to say ------------------------------------------------------------------------------------------------------ */

/* Engines that log do so to a BIO: a line each. */
static int log_write_bio(BIO *bio, const char *data, int n)
{
	int length = n;

	(void)bio;
	while (length > 0 && (data[length - 1] == '\n' || data[length - 1] == '\r'))
		length--;
	if (length > 0)
		log_global(LOG_INFO, "engine: %.*s", length, data);
	return n;
}

static long log_control_bio(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static BIO *log_bio_new(void)
{
	static BIO_METHOD *method;
	BIO *bio;

	if (!method) {
		method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "log");
		if (!method || !BIO_meth_set_write(method, log_write_bio) || !BIO_meth_set_ctrl(method, log_control_bio))
			return NULL;
	}
	bio = BIO_new(method);
	if (bio)
		BIO_set_init(bio, 1);
	return bio;
}

static void set_logging(unsigned i)
{
	BIO *bio = log_bio_new();
	bool taken = bio && ENGINE_ctrl(engines[i].engine, ENGINE_CTRL_SET_LOGSTREAM, 0, bio, NULL) > 0;

	/* One that takes it keeps it for the life of the process. */
	if (taken)
		log_global(LOG_NOTICE, "Logging initialized on engine #%u (%s)", NAME(i));
	else
		log_global(LOG_INFO, "Logging not supported by engine #%u (%s)", NAME(i));
	if (!taken)
		BIO_free(bio);
	ERR_clear_error();
}

static bool set_prompts(unsigned i)
{
	UI_METHOD *ui = tls_prompt_method();
	bool taken = ui && ENGINE_ctrl_cmd(engines[i].engine, "SET_USER_INTERFACE", 0, ui, NULL, 0) > 0;

	ERR_clear_error();
	return taken;
}

static void announce_prompts(unsigned i)
{
	if (set_prompts(i))
		log_global(LOG_NOTICE, "UI set for engine #%u (%s)", NAME(i));
	else
		log_global(LOG_INFO, "UI not supported by engine #%u (%s)", NAME(i));
}

/* --- options ------------------------------------------------------------------------------------------------------------------------ */

static void settle(unsigned i)
{
	if (engines[i].settled)
		return;
	engines[i].settled = true;
	log_global(LOG_DEBUG, "Initializing engine #%u (%s)", NAME(i));
	ERR_clear_error();
	engines[i].ready = ENGINE_init(engines[i].engine);
	if (engines[i].ready) {
		log_global(LOG_INFO, "Engine #%u (%s) initialized", NAME(i));
	} else {
		tls_log_errors(LOG_ERR, NULL, "ENGINE_init", NULL);
		log_global(LOG_ERR, "Engine #%u (%s) not initialized", NAME(i));
	}
}

void tls_engine_settle(void)
{
	if (count > 0)
		settle(count - 1);
}

/* Every engine of the list gets a number; references stay with them. */
static const char *open_known(void)
{
	ENGINE *engine;

	log_global(LOG_INFO, "Enabling automatic engine support");
	OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL); /* openssl.cnf may name some */
	for (engine = ENGINE_get_first(); engine; engine = ENGINE_get_next(engine)) {
		if (strcmp(ENGINE_get_id(engine), "dynamic") == 0)
			continue; /* what others are loaded by */
		if (count == ENGINES_MAX) {
			ENGINE_free(engine);
			return "Too many open engines";
		}
		ENGINE_up_ref(engine);
		engines[count].engine = engine;
		engines[count].settled = false;
		count++;
		log_global(LOG_INFO, "Engine #%u (%s) registered", NAME(count - 1));
		settle(count - 1);
	}
	ENGINE_register_all_complete();
	ERR_clear_error();
	log_global(LOG_INFO, "Automatic engine support enabled");
	return NULL;
}

const char *tls_engine_open(const char *id)
{
	ENGINE *engine;

	tls_engine_settle();
	if (strcasecmp(id, "auto") == 0)
		return open_known();
	log_global(LOG_DEBUG, "Enabling support for engine \"%s\"", id);
	if (count == ENGINES_MAX)
		return "Too many open engines";
	ERR_clear_error();
	engine = ENGINE_by_id(id);
	if (!engine) {
		tls_log_errors(LOG_ERR, NULL, "ENGINE_by_id", NULL);
		return "Failed to open the engine";
	}
	engines[count].engine = engine;
	count++;
	set_logging(count - 1);
	announce_prompts(count - 1);
	return NULL;
}

/* CMD:ARG as it may be seen: passwords stay out of the log. */
static void log_control(const char *name, const char *argument)
{
	bool secret = strcasestr(name, "PIN") || strcasestr(name, "PASS") || strcasestr(name, "SECRET");

	log_global(LOG_DEBUG, "Executing engine control command %s%s%s", name, argument ? ":" : "",
	           !argument ? ""
	           : secret  ? "..."
	                     : argument);
}

const char *tls_engine_control(const char *command)
{
	const char *argument = strchr(command, ':');
	char name[64];
	bool done;

	if (count == 0) /* "auto", and there is none */
		return "No engine was defined";
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(command, ":"), command);
	if (argument)
		argument++;
	if (!argument && strcasecmp(name, "INIT") == 0) {
		settle(count - 1);
		return NULL;
	}
	log_control(name, argument);
	ERR_clear_error();
	tls_prompt_begin(true, NULL, NULL);
	done = ENGINE_ctrl_cmd_string(engines[count - 1].engine, name, argument, 0) > 0;
	tls_prompt_end();
	if (!done) {
		tls_log_errors(LOG_ERR, NULL, "ENGINE_ctrl_cmd_string", NULL);
		return "Failed to execute the engine control command";
	}
	/* The engine "dynamic" has become another, which may ask. */
	if (strcasecmp(name, "LOAD") == 0)
		set_prompts(count - 1);
	return NULL;
}

const char *tls_engine_default(const char *tasks)
{
	if (count == 0)
		return "No engine was defined";
	ERR_clear_error();
	if (ENGINE_set_default_string(engines[count - 1].engine, tasks) != 1) {
		tls_log_errors(LOG_ERR, NULL, "ENGINE_set_default_string", NULL);
		return "Failed to set engine as default";
	}
	log_global(LOG_INFO, "Engine #%u (%s) set as default for %s", NAME(count - 1), tasks);
	return NULL;
}

/* --- what is in them ---------------------------------------------------------------------------------------------------------------- */

unsigned tls_engine_count(void)
{
	return count;
}

unsigned tls_engine_find(const char *id)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(ENGINE_get_id(engines[i].engine), id) == 0)
			return i + 1;
	return 0;
}

/* What engines that know certificates have agreed on, libp11 and others. */
struct load_cert {
	const char *id;
	X509 *cert;
};

X509 *tls_engine_cert(unsigned number, const char *id)
{
	struct load_cert load = {.id = id};

	if (number == 0 || number > count || !engines[number - 1].ready)
		return NULL;
	if (ENGINE_ctrl_cmd(engines[number - 1].engine, "LOAD_CERT_CTRL", 0, &load, NULL, 0) <= 0)
		return NULL;
	return load.cert;
}

EVP_PKEY *tls_engine_key(unsigned number, const char *id, UI_METHOD *ui)
{
	if (number == 0 || number > count || !engines[number - 1].ready)
		return NULL;
	return ENGINE_load_private_key(engines[number - 1].engine, id, ui, NULL);
}

#endif
