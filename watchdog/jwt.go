package watchdog

import (
	"fmt"
	"net/http"
	"time"

	"github.com/openfaas/faas-middleware/auth"
)

// issuerTimeout is how long the start may wait for the issuer of tokens: well
// within what a startup probe allows, long enough for a slow DNS.
const issuerTimeout = 10 * time.Second

// authenticate puts OpenFaaS's token check before next: 401 without a valid
// token, 403 with one for another function. It asks the issuer for its keys
// now, once, and fails when they have not come within issuerTimeout.
func authenticate(cfg Config, next http.Handler) (http.Handler, error) {
	return authenticateWithin(issuerTimeout, cfg, next)
}

// authenticateWithin bounds what faas-middleware does not: it asks with
// http.DefaultClient, which waits for ever. A question that is not answered in
// time cannot be stopped; its goroutine ends with its connection, or with the
// program, whose start has failed.
func authenticateWithin(d time.Duration, cfg Config, next http.Handler) (http.Handler, error) {
	type outcome struct {
		handler http.Handler
		err     error
	}
	asked := make(chan outcome, 1)
	go func() {
		h, err := auth.NewJWTAuthMiddleware(auth.JWTAuthOptions{
			Name:           cfg.FunctionName,
			Namespace:      cfg.FunctionNamespace,
			LocalAuthority: cfg.JWTAuthLocal,
			Debug:          cfg.JWTAuthDebug,
		}, next)
		asked <- outcome{h, err}
	}()

	timeout := time.NewTimer(d)
	defer timeout.Stop()
	select {
	case o := <-asked:
		if o.err != nil {
			return nil, fmt.Errorf("issuer of tokens (jwt_auth): %w", o.err)
		}
		return o.handler, nil
	case <-timeout.C:
		return nil, fmt.Errorf("issuer of tokens (jwt_auth): no answer within %s", d)
	}
}
