/* liburing-dev -luring */
#include <liburing.h>

int main(void)
{
	struct io_uring ring;
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};

	return io_uring_queue_init_params(2, &ring, &params);
}
