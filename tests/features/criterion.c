/* libcriterion-dev -lcriterion */
#include <criterion/criterion.h>

Test(feature, links)
{
}
