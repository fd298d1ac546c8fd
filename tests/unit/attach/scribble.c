/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program that knows nothing of memferry: it maps a file and does with it what its standard input says, one command a line, one line of
 * answer each. `scribble FILE PAGE_BYTES`; numbers are in pages.
 *
 *   map FIRST COUNT          maps a part of the file; from here on the others mean the latest mapping, counted in pages of the file
 *   check FIRST COUNT SEED   "ok", or "bad PAGE" when a page holds something else
 *   write FIRST COUNT SEED
 *   pipe PAGE SEED           lets the kernel read the page (write(2) to a pipe) and checks what came
 *   discard FIRST COUNT      madvise(MADV_REMOVE)
 *   unmap FIRST COUNT
 *   move                     mremap, which must be refused: "refused"
 *   child PAGE               a forked child touches the page: "signal N" or "exit N"
 *   exec COMMAND             runs it through the shell, answers with its first line of output
 *   churn THREADS SEED       threads check and write random pages until "halt"; SEED is what the pages hold now
 *   halt                     "ok WRITES", or "bad PAGE" for the first page that was wrong at any time
 */
#include "scribble-pattern.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHURNERS_MAX 8

static int file;
static size_t page_bytes;
static uint8_t *base; /* where page 0 of the file would be, given the latest mapping */
static uint64_t first_page, n_pages;

static _Atomic bool halt;
static _Atomic int64_t bad_page = -1;
static _Atomic uint64_t writes;
static uint32_t *seeds; /* what each page holds; a churner has every n_churners-th page to itself */
static unsigned n_churners;
static pthread_t churners[CHURNERS_MAX];

static uint8_t *
at (uint64_t page)
{
  return base + page * page_bytes;
}

static void
map (uint64_t first, uint64_t count)
{
  void *mapped =
      mmap (NULL, count * page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t) (first * page_bytes));

  if (mapped == MAP_FAILED) {
    printf ("failed %s\n", strerror (errno));
    return;
  }
  base = (uint8_t *) ((uintptr_t) mapped - first * page_bytes);
  first_page = first;
  n_pages = count;
  printf ("ok %d\n", (int) getpid ());
}

static void
check (uint64_t first, uint64_t count, uint32_t seed)
{
  for (uint64_t page = first; page < first + count; page++) {
    if (!pattern_holds (at (page), page_bytes, seed, page)) {
      printf ("bad %llu\n", (unsigned long long) page);
      return;
    }
  }
  printf ("ok\n");
}

static void
write_pages (uint64_t first, uint64_t count, uint32_t seed)
{
  for (uint64_t page = first; page < first + count; page++)
    pattern_fill (at (page), page_bytes, seed, page);
  printf ("ok\n");
}

static void
check_by_kernel (uint64_t page, uint32_t seed)
{
  uint8_t *copy = malloc (page_bytes);
  size_t got = 0;
  int ends[2];

  if (!copy || pipe (ends) < 0)
    err (1, "pipe");
  while (got < page_bytes) {
    const ssize_t in = write (ends[1], at (page) + got, page_bytes - got > 4096 ? 4096 : page_bytes - got);
    const ssize_t out = in > 0 ? read (ends[0], copy + got, (size_t) in) : -1;

    if (out <= 0)
      break;
    got += (size_t) out;
  }
  if (got < page_bytes)
    printf ("failed %s\n", strerror (errno));
  else
    printf (pattern_holds (copy, page_bytes, seed, page) ? "ok\n" : "bad\n");
  close (ends[0]);
  close (ends[1]);
  free (copy);
}

static void
touch_in_child (uint64_t page)
{
  const pid_t pid = fork ();
  int status;

  if (pid == 0)
    _exit (*(volatile uint8_t *) at (page) & 0);
  if (pid < 0 || waitpid (pid, &status, 0) != pid)
    err (1, "fork");
  printf (WIFSIGNALED (status) ? "signal %d\n" : "exit %d\n",
          WIFSIGNALED (status) ? WTERMSIG (status) : WEXITSTATUS (status));
}

static void
run (const char *command)
{
  FILE *output = popen (command, "r");
  char line[256] = "\n";

  if (!output)
    err (1, "popen");
  if (!fgets (line, sizeof (line), output))
    strcpy (line, "\n");
  pclose (output);
  fputs (line, stdout);
}

static void *
churn (void *argument)
{
  const unsigned me = (unsigned) (uintptr_t) argument;
  uint64_t random = me * 7919 + 1;

  while (!halt) {
    uint64_t page;

    random = random * UINT64_C (6364136223846793005) + UINT64_C (1442695040888963407);
    page = (random >> 33) % n_pages;
    page = first_page + page - page % n_churners + me;
    if (page >= first_page + n_pages)
      continue;
    if (!pattern_holds (at (page), page_bytes, seeds[page], page)) {
      bad_page = (int64_t) page;
      return NULL;
    }
    seeds[page] = seeds[page] * 31 + me + 1;
    pattern_fill (at (page), page_bytes, seeds[page], page);
    writes++;
  }
  return NULL;
}

static void
start_churn (unsigned threads, uint32_t seed)
{
  n_churners = threads < CHURNERS_MAX ? threads : CHURNERS_MAX;
  free (seeds);
  seeds = malloc ((first_page + n_pages) * sizeof (*seeds));
  if (!seeds)
    err (1, "malloc");
  for (uint64_t page = 0; page < first_page + n_pages; page++)
    seeds[page] = seed;
  halt = false;
  bad_page = -1;
  writes = 0;
  for (unsigned i = 0; i < n_churners; i++) {
    if (pthread_create (&churners[i], NULL, churn, (void *) (uintptr_t) i) != 0)
      errx (1, "pthread_create");
  }
  printf ("ok\n");
}

static void
stop_churn (void)
{
  halt = true;
  for (unsigned i = 0; i < n_churners; i++)
    pthread_join (churners[i], NULL);
  for (uint64_t page = first_page; page < first_page + n_pages && bad_page < 0; page++) {
    if (!pattern_holds (at (page), page_bytes, seeds[page], page))
      bad_page = (int64_t) page;
  }
  if (bad_page >= 0)
    printf ("bad %lld\n", (long long) bad_page);
  else
    printf ("ok %llu\n", (unsigned long long) writes);
}

static void
obey (const char *line)
{
  unsigned long long a = 0, b = 0, c = 0;
  char word[16] = "";
  int used = 0;

  sscanf (line, "%15s %n%llu %llu %llu", word, &used, &a, &b, &c);
  if (!strcmp (word, "map"))
    map (a, b);
  else if (!strcmp (word, "check"))
    check (a, b, (uint32_t) c);
  else if (!strcmp (word, "write"))
    write_pages (a, b, (uint32_t) c);
  else if (!strcmp (word, "pipe"))
    check_by_kernel (a, (uint32_t) b);
  else if (!strcmp (word, "discard"))
    printf (madvise (at (a), b * page_bytes, MADV_REMOVE) == 0 ? "ok\n" : "failed\n");
  else if (!strcmp (word, "unmap"))
    printf (munmap (at (a), b * page_bytes) == 0 ? "ok\n" : "failed\n");
  else if (!strcmp (word, "move"))
    printf (mremap (at (first_page), n_pages * page_bytes, 2 * n_pages * page_bytes, MREMAP_MAYMOVE) == MAP_FAILED
                ? "refused\n"
                : "ok\n");
  else if (!strcmp (word, "child"))
    touch_in_child (a);
  else if (!strcmp (word, "exec"))
    run (line + used);
  else if (!strcmp (word, "churn"))
    start_churn ((unsigned) a, (uint32_t) b);
  else if (!strcmp (word, "halt"))
    stop_churn ();
  else
    printf ("what?\n");
}

int
main (int argc, char **argv)
{
  char line[512];
  sigset_t blocked;

  if (argc != 3)
    errx (2, "usage: scribble FILE PAGE_BYTES");
  file = open (argv[1], O_RDWR | O_CLOEXEC);
  if (file < 0)
    err (1, "%s", argv[1]);
  page_bytes = (size_t) strtoull (argv[2], NULL, 10);
  /* As QEMU does: nobody but a thread that does not block them could get these, and would be killed by them. */
  sigemptyset (&blocked);
  sigaddset (&blocked, SIGALRM);
  sigaddset (&blocked, SIGIO);
  sigprocmask (SIG_BLOCK, &blocked, NULL);
  setvbuf (stdout, NULL, _IOLBF, 0);
  while (fgets (line, sizeof (line), stdin))
    obey (line);
  return 0;
}
