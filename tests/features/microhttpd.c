/* libmicrohttpd-dev -lmicrohttpd */
#include <microhttpd.h>

int main(void)
{
	return MHD_get_version() == 0;
}
