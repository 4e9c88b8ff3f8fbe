/* libipsec-mb-dev -lIPSec_MB */
#include <intel-ipsec-mb.h>
#include <stddef.h>

int main(void)
{
	return alloc_mb_mgr(0) == NULL;
}
