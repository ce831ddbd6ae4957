/* The limit: a WebSocket server that does nothing but call send(), one for each client and flush.
 *
 * usage: limit CREDITS TICKS TEMPLATE
 *
 * It binds a free port of 127.0.0.1 and prints it. For each byte read from the file descriptor
 * CREDITS it sends TICKS messages to every client, in one send() each: the text of the file TEMPLATE
 * with the next "seq" and "prev" (from the template's own on) and the time in "ts_ingest". Every
 * message has the length of the template. Nothing is queued: a client that takes nothing is waited for.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, MAX_REQUEST = 4096, EVENTS = 512 };

static int clients[MAX_FD], client_count;
/* What was read of a handshake; NULL once it is done. */
static char *requests[MAX_FD];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* ---------------------------------------------------------------- handshake */

static uint32_t rotate(uint32_t value, int by)
{
    return value << by | value >> (32 - by);
}

/* SHA-1 (FIPS 180-4) of at most 119 bytes. */
static void sha1(const uint8_t *data, size_t size, uint8_t digest[20])
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    size_t blocks = (size + 9 + 63) / 64;

    memcpy(padded, data, size);
    padded[size] = 0x80;
    padded[blocks * 64 - 2] = (uint8_t)(size * 8 >> 8);
    padded[blocks * 64 - 1] = (uint8_t)(size * 8);
    for (size_t block = 0; block < blocks; block++) {
        uint32_t words[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
        for (int i = 0; i < 16; i++) {
            const uint8_t *at = padded + block * 64 + i * 4;
            words[i] = (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
        }
        for (int i = 16; i < 80; i++)
            words[i] = rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                             : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                             : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                                      : (b ^ c ^ d) + 0xca62c1d6;
            uint32_t next = rotate(a, 5) + mixed + e + words[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
}

static void base64(const uint8_t digest[20], char text[29])
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0, out = 0; i < 20; i += 3) {
        uint32_t bits = digest[i] << 16 | digest[i + 1] << 8 | (i + 2 < 20 ? digest[i + 2] : 0);
        for (int shift = 18; shift >= 0; shift -= 6)
            text[out++] = letters[bits >> shift & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

/* ---------------------------------------------------------------- sending */

static void send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            struct pollfd waiting = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN || poll(&waiting, 1, 5000) <= 0)
                return; /* The client left; the sink says so. */
            continue;
        }
        data += sent;
        size -= (size_t)sent;
    }
}

/* Write `value` over the digits behind `name` in the message. */
static void patch(char *message, const char *name, uint64_t value)
{
    char *at = strstr(message, name), digits[24];
    if (at == NULL)
        return;
    at += strlen(name);
    size_t width = strspn(at, "0123456789");
    snprintf(digits, sizeof digits, "%0*" PRIu64, (int)width, value);
    memcpy(at, digits, width);
}

static uint64_t unix_microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void flush(char *template, uint64_t *seq, int ticks)
{
    static char *frames;
    size_t length = strlen(template), header = length < 126 ? 2 : 4, size = header + length;

    if (frames == NULL && (frames = malloc(size * (size_t)ticks)) == NULL)
        fail("malloc");
    for (int tick = 0; tick < ticks; tick++, (*seq)++) {
        char *frame = frames + size * (size_t)tick;
        patch(template, "\"seq\":", *seq);
        patch(template, "\"prev\":", *seq - 1);
        patch(template, "\"ts_ingest\":", unix_microseconds());
        frame[0] = (char)0x81;
        frame[1] = (char)(length < 126 ? length : 126);
        if (header == 4) {
            frame[2] = (char)(length >> 8);
            frame[3] = (char)length;
        }
        memcpy(frame + header, template, length);
    }
    for (int i = 0; i < client_count; i++)
        send_all(clients[i], frames, size * (size_t)ticks);
}

/* ---------------------------------------------------------------- connections */

static void drop(int fd)
{
    for (int i = 0; i < client_count; i++)
        if (clients[i] == fd)
            clients[i] = clients[--client_count];
    free(requests[fd]);
    requests[fd] = NULL;
    close(fd);
}

static void answer(int fd)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", name[] = "Sec-WebSocket-Key: ";
    char *key = strcasestr(requests[fd], name), joined[64], accept[29], response[200];
    uint8_t digest[20];

    if (key == NULL || strlen(key) < sizeof name - 1 + 24) {
        drop(fd);
        return;
    }
    memcpy(joined, key + sizeof name - 1, 24);
    memcpy(joined + 24, guid, 36);
    sha1((uint8_t *)joined, 60, digest);
    base64(digest, accept);
    int size = snprintf(response, sizeof response,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    send_all(fd, response, (size_t)size);
    free(requests[fd]);
    requests[fd] = NULL;
    clients[client_count++] = fd;
}

static void receive(int fd)
{
    char ignored[MAX_REQUEST], *request = requests[fd];
    size_t held = request == NULL ? 0 : strlen(request);
    char *into = request == NULL ? ignored : request + held;
    ssize_t size = recv(fd, into, MAX_REQUEST - 1 - held, 0);

    if (size <= 0) {
        drop(fd);
    } else if (request != NULL) {
        request[held + (size_t)size] = 0;
        if (strstr(request, "\r\n\r\n") != NULL)
            answer(fd);
    }
}

static void accept_clients(int listener, int poller)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= MAX_FD || (requests[fd] = calloc(1, MAX_REQUEST)) == NULL) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static char *read_template(const char *path, uint64_t *seq)
{
    static char text[65536];
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail(path);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    char *at = strstr(text, "\"seq\":");
    if (at == NULL) {
        fprintf(stderr, "%s has no \"seq\"\n", path);
        exit(1);
    }
    *seq = strtoull(at + 6, NULL, 10);
    return text;
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: limit CREDITS TICKS TEMPLATE\n");
        return 2;
    }
    int credits = atoi(arguments[1]), ticks = atoi(arguments[2]);
    uint64_t seq;
    char *template = read_template(arguments[3], &seq);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    if (bind(listener, (struct sockaddr *)&address, address_size) < 0 || listen(listener, 4096) < 0)
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &address_size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = credits;
    epoll_ctl(poller, EPOLL_CTL_ADD, credits, &event);
    for (;;) {
        int found = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < found; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_clients(listener, poller);
            } else if (fd == credits) {
                char granted[64];
                ssize_t flushes = read(credits, granted, sizeof granted);
                if (flushes <= 0)
                    return 0; /* The sink is done. */
                while (flushes-- > 0)
                    flush(template, &seq, ticks);
            } else {
                receive(fd);
            }
        }
    }
}
