/* libssl-dev -lssl -lcrypto */
#include <openssl/opensslv.h>
#include <openssl/ssl.h>

#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "OpenSSL 3.0 or newer is needed"
#endif

int main(void)
{
	return SSL_CTX_new_ex(NULL, NULL, TLS_method()) == NULL;
}
