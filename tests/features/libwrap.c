/* libwrap0-dev -lwrap */
#include <stddef.h>
#include <tcpd.h>

int main(void)
{
	struct request_info request;

	request_init(&request, RQ_FILE, 0, RQ_DAEMON, "feature", 0);
	return hosts_access(&request);
}
