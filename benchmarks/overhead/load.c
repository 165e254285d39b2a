/* load: send one prepared HTTP/1.1 request again and again, and say what came back.
 *
 *   load PORT REQUEST-FILE CONNECTIONS WARM-UP SECONDS RATE STAGGER COUNT
 *
 * PORT      of the server, on loopback
 * RATE 0    closed loop: every connection sends its next request when its last answer has ended.
 *           The first ones are spread over STAGGER seconds, so that paced streams do not march in step.
 * RATE > 0  open loop: so many requests a second at random moments, the same in every run. Latency counts from the
 *           moment a request was due, so a server that stalls cannot hide its queue.
 * COUNT > 0 stop after so many answers.
 *
 * Prints "start" after the warm-up and one JSON object SECONDS later: a reader takes the CPU times at these two
 * lines. What is still under way then may end, for DRAIN seconds, and is not counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MOST_PEERS 4096
#define LINE 8192
#define DRAIN 5.0
#define CLOCK UINT32_MAX

enum part { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };

struct peer {
  int fd, busy, status, chunked, closing, read_body;
  enum part part;
  size_t sent, left, line_length;
  double due, first;
  long events;
  char last, line[LINE];
};

static struct peer peers[MOST_PEERS];
static int spare[MOST_PEERS], spares, known, most, poller, timer, port, stopping;
static char *request;
static size_t request_length;
static double *due, *latency, *first_event;
static size_t due_from, due_to, due_room, samples, samples_room;
static long answered, bad_status, broken, reads, events, in_flight;
static int64_t bytes;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void *grown(void *old, size_t count, size_t size) {
  void *made = realloc(old, count * size);
  if (made == NULL) fail("realloc");
  return made;
}

static void watch(struct peer *p, uint32_t what) {
  struct epoll_event event = {.events = what, .data.u32 = (uint32_t)(p - peers)};
  if (epoll_ctl(poller, EPOLL_CTL_MOD, p->fd, &event)) fail("epoll_ctl");
}

static void dial(struct peer *p) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(p - peers)};
  int on = 1;
  p->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
  setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (epoll_ctl(poller, EPOLL_CTL_ADD, p->fd, &event)) fail("epoll_ctl");
}

static void hang_up(struct peer *p) {
  if (p->fd > 0) close(p->fd);
  p->fd = 0;
}

static void push(struct peer *p) {
  while (p->sent < request_length) {
    ssize_t n = send(p->fd, request + p->sent, request_length - p->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      watch(p, EPOLLIN | EPOLLOUT);
      return;
    }
    if (n < 0) return; /* Reading will say what is wrong. */
    p->sent += (size_t)n;
    if (p->sent == request_length && n < (ssize_t)request_length) watch(p, EPOLLIN);
  }
}

static void begin(struct peer *p, double at) {
  if (p->fd == 0) dial(p);
  p->busy = 1;
  p->due = at;
  p->first = 0;
  p->part = HEAD;
  p->sent = p->left = p->line_length = 0;
  p->status = p->chunked = p->closing = 0;
  p->events = 0;
  p->last = 0;
  in_flight++;
  push(p);
}

static void plan(double at) {
  if (due_to == due_room) due = grown(due, due_room = due_room * 2 + 4096, sizeof *due);
  due[due_to++] = at;
}

static void end(struct peer *p, int whole) {
  double t = now();
  p->busy = 0;
  in_flight--;
  if (!whole)
    broken++;
  else if (p->status != 200)
    bad_status++;
  else {
    answered++;
    if (samples == samples_room) {
      samples_room = samples_room * 2 + 65536;
      latency = grown(latency, samples_room, sizeof *latency);
      first_event = grown(first_event, samples_room, sizeof *first_event);
    }
    latency[samples] = t - p->due;
    first_event[samples++] = p->first - p->due;
  }
  if (!whole || p->closing) hang_up(p);
  spare[spares++] = (int)(p - peers);
}

static void count(struct peer *p, const char *at, size_t length) {
  if (p->first == 0) p->first = now();
  p->read_body = 1;
  bytes += (int64_t)length;
  /* An event ends at an empty line. */
  for (const char *stop = at + length, *next; at < stop; at = next + 1) {
    next = memchr(at, '\n', (size_t)(stop - at));
    if (next == NULL) {
      p->last = stop[-1];
      return;
    }
    if ((next == at ? p->last : next[-1]) == '\n') {
      p->events++;
      events++;
    }
    p->last = '\n';
  }
}

/* Returns whether the answer is whole. */
static int header(struct peer *p) {
  const char *line = p->line;
  if (p->status == 0) {
    if (strncmp(line, "HTTP/1.1 ", 9) == 0) p->status = atoi(line + 9);
    return 0;
  }
  if (*line == 0) {
    p->part = p->chunked ? CHUNK_SIZE : BODY;
    return !p->chunked && p->left == 0;
  }
  if (strncasecmp(line, "content-length:", 15) == 0) p->left = strtoul(line + 15, NULL, 10);
  if (strncasecmp(line, "transfer-encoding:", 18) == 0) p->chunked = 1;
  if (strncasecmp(line, "connection:", 11) == 0 && strcasestr(line + 11, "close")) p->closing = 1;
  return 0;
}

static int line_ended(struct peer *p) {
  p->line[p->line_length] = 0;
  p->line_length = 0;
  switch (p->part) {
    case HEAD:
      return header(p);
    case CHUNK_SIZE:
      p->left = strtoul(p->line, NULL, 16);
      p->part = p->left ? CHUNK : TRAILER;
      return 0;
    case CHUNK_END:
      p->part = CHUNK_SIZE;
      return 0;
    default:
      return *p->line == 0;
  }
}

/* Returns whether the answer is whole; -1 if it is not HTTP. */
static int take(struct peer *p, const char *at, size_t length) {
  while (length) {
    size_t n;
    if (p->part == BODY || p->part == CHUNK) {
      n = length < p->left ? length : p->left;
      count(p, at, n);
      p->left -= n;
      if (p->left == 0) {
        if (p->part == BODY) return 1;
        p->part = CHUNK_END;
      }
    } else {
      const char *stop = memchr(at, '\n', length);
      n = stop ? (size_t)(stop - at) + 1 : length;
      if (p->line_length + n >= LINE) return -1;
      memcpy(p->line + p->line_length, at, n);
      p->line_length += n;
      if (stop) {
        while (p->line_length && strchr("\r\n", p->line[p->line_length - 1])) p->line_length--;
        if (line_ended(p)) return 1;
      }
    }
    at += n;
    length -= n;
  }
  return 0;
}

static void ready(struct peer *p, uint32_t what) {
  static char room[256 * 1024];
  if (what & EPOLLOUT) push(p);
  if (!(what & ~(uint32_t)EPOLLOUT)) return;
  ssize_t n = recv(p->fd, room, sizeof room, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return;
  if (!p->busy) {
    /* Closed, or talking without being asked. */
    hang_up(p);
    return;
  }
  p->read_body = 0;
  int whole = n > 0 ? take(p, room, (size_t)n) : -1;
  reads += p->read_body;
  if (whole) end(p, whole > 0);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void quantiles(const char *name, double *of) {
  qsort(of, samples, sizeof *of, by_size);
  printf(", \"%s_ms\": {", name);
  const int wanted[] = {50, 95, 99};
  for (int i = 0; i < 3; i++) printf("%s\"p%d\": %.4f", i ? ", " : "", wanted[i], samples ? of[samples * (size_t)wanted[i] / 100] * 1e3 : 0.0);
  printf("}");
}

static void report(double seconds) {
  printf("{\"seconds\": %.6f, \"answered\": %ld, \"bad_status\": %ld, \"broken\": %ld, \"events\": %ld, \"reads\": %ld, \"bytes\": %lld",
         seconds, answered, bad_status, broken, events, reads, (long long)bytes);
  quantiles("latency", latency);
  quantiles("first_byte", first_event);
  printf("}\n");
  fflush(stdout);
}

static void read_request(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path);
  fseek(file, 0, SEEK_END);
  request_length = (size_t)ftell(file);
  rewind(file);
  request = grown(NULL, request_length, 1);
  if (fread(request, 1, request_length, file) != request_length) fail(path);
  fclose(file);
}

static void arm(double at) {
  if (at < 1e-9) at = 1e-9;
  struct itimerspec when = {.it_value = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - floor(at)) * 1e9)}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Seconds to the next arrival of a Poisson process; always the same sequence. */
static double pause_of(double rate) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return -log(((double)(state >> 11) + 1) / 9007199254740994.0) / rate;
}

static void start_due(double t, int closed) {
  while (due_from < due_to && due[due_from] <= t && !stopping) {
    int which;
    if (spares)
      which = spare[--spares];
    else if (known < most)
      which = known++;
    else
      return;
    begin(&peers[which], closed ? t : due[due_from]);
    due_from++;
  }
}

int main(int argc, char **argv) {
  if (argc != 9) {
    fprintf(stderr, "usage: load PORT REQUEST-FILE CONNECTIONS WARM-UP SECONDS RATE STAGGER COUNT\n");
    return 2;
  }
  port = atoi(argv[1]);
  read_request(argv[2]);
  most = atoi(argv[3]);
  double warm_up = atof(argv[4]), seconds = atof(argv[5]), rate = atof(argv[6]), stagger = atof(argv[7]);
  long wanted = atol(argv[8]);
  if (most < 1 || most > MOST_PEERS) return 2;
  poller = epoll_create1(0);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event tick = {.events = EPOLLIN, .data.u32 = CLOCK}, got[256];
  if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &tick)) fail("epoll");

  double from = now(), warm = from + warm_up, stop = warm + seconds;
  int measuring = 0;
  if (rate > 0)
    for (double at = from; at < stop; at += pause_of(rate)) plan(at);
  else
    for (int i = 0; i < most; i++) plan(from + stagger * i / most);

  for (;;) {
    double t = now();
    if (!measuring && t >= warm) {
      measuring = 1;
      answered = bad_status = broken = events = reads = 0;
      bytes = 0;
      samples = 0;
      warm = t;
      printf("start\n");
      fflush(stdout);
    }
    if (!stopping && (t >= stop || (wanted && answered >= wanted))) {
      stopping = 1;
      report(t - warm);
    }
    if (stopping && (in_flight == 0 || t >= stop + DRAIN)) return 0;
    start_due(t, rate == 0);
    double next = stopping ? stop + DRAIN : measuring ? stop : warm;
    if (!stopping && due_from < due_to && due[due_from] > t && due[due_from] < next) next = due[due_from];
    arm(next);
    int n = epoll_wait(poller, got, 256, -1);
    for (int i = 0; i < n; i++) {
      if (got[i].data.u32 == CLOCK) {
        uint64_t ticks;
        if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) fail("timer");
        continue;
      }
      struct peer *p = &peers[got[i].data.u32];
      int was_busy = p->busy;
      if (p->fd > 0) ready(p, got[i].events);
      if (rate == 0 && was_busy && !p->busy && !stopping) {
        spares--;
        begin(p, now());
      }
    }
  }
}
