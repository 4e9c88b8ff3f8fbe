/* libjemalloc-dev -ljemalloc */
#include <jemalloc/jemalloc.h>
#include <stddef.h>

int main(void)
{
	return mallctl("epoch", NULL, NULL, NULL, 0);
}
