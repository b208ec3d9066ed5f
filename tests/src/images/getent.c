/* The addresses of a name, one a line, as its C library finds them. Ends with 2 if there are none, as getent does. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **arguments) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    if (count != 2 || getaddrinfo(arguments[1], NULL, &hints, &found) != 0) return 2;
    for (struct addrinfo *one = found; one != NULL; one = one->ai_next) {
        char text[NI_MAXHOST];
        if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0) puts(text);
    }
    freeaddrinfo(found);
    return 0;
}
