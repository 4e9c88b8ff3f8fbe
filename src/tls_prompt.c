/*
 * Pass phrases and PINs: see tls_prompt.h. They are neither shown nor logged, and wiped when they have been used.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_prompt.h"

#include "log.h"
#include "tls.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/store.h>
#include <openssl/ui.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* PKCS #11 v2.40, what modules put into the error queue under library numbers of their own. */
enum { FIRST_MODULE_LIB = 128, CKR_ARGUMENTS_BAD = 7, CKR_PIN_INCORRECT = 0xa0 };

enum { REMEMBERED_MAX = 8 };

static char remembered[REMEMBERED_MAX][TLS_PASSPHRASE_MAX]; /* the latest first */
static size_t remembered_count;

/* The main thread's. An engine that wants a PIN in the midst of a worker's handshake gets an empty one: nobody may hold up a worker. */
static _Thread_local bool may_ask;
static _Thread_local struct {
	bool pin, asked;
	const char *given, *of;
	char answer[TLS_PASSPHRASE_MAX];
} prompt;

void tls_may_ask(bool yes)
{
	may_ask = yes;
}

void tls_forget_passphrase(void)
{
	OPENSSL_cleanse(remembered, sizeof(remembered));
	remembered_count = 0;
}

/* Without a terminal the answer is empty. */
static const char *ask(const char *question)
{
	int terminal = may_ask ? open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY) : -1;
	char *answer;

	if (terminal < 0)
		return "";
	/* OpenSSL's own reader prints the prompt before it turns the echo off, and whoever types ahead is seen; getpass(3) does not. */
	answer = getpass(question);
	close(terminal);
	snprintf(prompt.answer, sizeof(prompt.answer), "%s", answer ? answer : "");
	if (answer)
		OPENSSL_cleanse(answer, strlen(answer));
	return prompt.answer;
}

static int read_answer(UI *ui, UI_STRING *string)
{
	if (UI_get_string_type(string) != UIT_PROMPT && UI_get_string_type(string) != UIT_VERIFY)
		return 1;
	if (prompt.given && *prompt.given)
		return UI_set_result(ui, string, prompt.given) >= 0;
	prompt.asked = true;
	return UI_set_result(ui, string, ask(UI_get0_output_string(string))) >= 0;
}

/* OpenSSL's store knows pass phrases only; engines say themselves what they ask for. */
static char *make_question(UI *ui, const char *what, const char *of)
{
	char text[512];

	(void)ui;
	if (prompt.pin && strcmp(what, "pass phrase") == 0)
		what = "PIN";
	if (!of)
		of = prompt.of;
	snprintf(text, sizeof(text), of ? "Enter %s for %.400s:" : "Enter %s:", what, of);
	return OPENSSL_strdup(text);
}

UI_METHOD *tls_prompt_method(void)
{
	static UI_METHOD *method;

	if (method)
		return method;
	method = UI_create_method("terminal");
	if (method) {
		UI_method_set_reader(method, read_answer);
		UI_method_set_prompt_constructor(method, make_question);
	}
	return method;
}

void tls_prompt_begin(bool pin, const char *of, const char *answer)
{
	memset(&prompt, 0, sizeof(prompt));
	prompt.pin = pin;
	prompt.given = answer;
	prompt.of = of;
}

bool tls_prompt_asked(void)
{
	return prompt.asked;
}

const char *tls_prompt_answer(void)
{
	return prompt.answer;
}

void tls_prompt_end(void)
{
	OPENSSL_cleanse(&prompt, sizeof(prompt));
}

void tls_prompt_remember(void)
{
	memmove(remembered[1], remembered[0], sizeof(remembered) - sizeof(remembered[0]));
	memcpy(remembered[0], prompt.answer, sizeof(remembered[0]));
	if (remembered_count < REMEMBERED_MAX)
		remembered_count++;
	log_global(LOG_DEBUG, "Password cached");
}

const char *tls_prompt_remembered(size_t n)
{
	return n < remembered_count ? remembered[n] : NULL;
}

bool tls_prompt_was_wrong(void)
{
	bool wrong = false;

	for (unsigned long e; (e = ERR_get_error());) {
		int lib = ERR_GET_LIB(e), reason = ERR_GET_REASON(e);

		wrong |= lib == ERR_LIB_EVP && reason == EVP_R_BAD_DECRYPT;
		wrong |= lib == ERR_LIB_PEM && (reason == PEM_R_BAD_DECRYPT || reason == PEM_R_BAD_PASSWORD_READ);
		wrong |= lib == ERR_LIB_PKCS12 && reason == PKCS12_R_MAC_VERIFY_FAILURE;
		wrong |= lib == ERR_LIB_OSSL_STORE &&
		         (reason == OSSL_STORE_R_BAD_PASSWORD_READ || reason == OSSL_STORE_R_ERROR_VERIFYING_PKCS12_MAC);
		wrong |= lib == ERR_LIB_PROV || lib == ERR_LIB_UI || lib == ERR_LIB_ASN1;
		wrong |= lib >= FIRST_MODULE_LIB && (reason == CKR_PIN_INCORRECT || reason == CKR_ARGUMENTS_BAD);
	}
	return wrong;
}
