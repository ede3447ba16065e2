/* Pi by the midpoint rule, the intervals shared among the threads of this process. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    const long intervals = 10000000;
    const double width = 1.0 / intervals;
    const char *rank = getenv("RANK");
    double sum = 0.0;
    int threads = 1;

#pragma omp parallel reduction(+ : sum)
    {
#pragma omp single
        threads = omp_get_num_threads();
#pragma omp for
        for (long i = 0; i < intervals; i++) {
            double x = width * (i + 0.5);
            sum += 4.0 / (1.0 + x * x);
        }
    }
    printf("rank %s: pi %.12f by %d threads\n", rank ? rank : "0", width * sum, threads);
    return 0;
}
