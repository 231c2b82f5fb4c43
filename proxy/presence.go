package proxy

import (
	"context"
	"net"
	"time"

	"github.com/weir-run/weir/invoke"
)

// lookEvery is how often a client is looked at that net/http does not watch:
// eight thousand of them cost about a thirtieth of a processor.
const lookEvery = 250 * time.Millisecond

type connKey struct{}

// ConnContext is for http.Server.ConnContext. With it a Call notices a client
// that hangs up also where net/http, which looks only behind the end of a body,
// does not.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// watchClient calls left once the client of ctx is gone. It returns nil where
// that cannot be seen: in TLS, or without ConnContext.
func watchClient(ctx context.Context, left func()) *invoke.Presence {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	return invoke.WatchClient(c, lookEvery, left)
}
