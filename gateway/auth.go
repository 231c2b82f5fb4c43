package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard stands before every route that is not open.
type guard struct {
	// secret: there is a password, and nothing else opens.
	secret         bool
	user, password [sha256.Size]byte
	cross          *http.CrossOriginProtection
}

func newGuard(user, password string) guard {
	return guard{
		secret: password != "",
		user:   sha256.Sum256([]byte(user)), password: sha256.Sum256([]byte(password)),
		cross: http.NewCrossOriginProtection(),
	}
}

// admit lets a request pass, or answers it with 401 and the remedy.
func (g *guard) admit(w http.ResponseWriter, r *http.Request) bool {
	var remedy string
	if g.secret {
		if g.knows(r) {
			return true
		}
		remedy = "send the user and password that weir was given (WEIR_BASIC_AUTH_USER, WEIR_BASIC_AUTH_PASSWORD), as faas-cli does after faas-cli login"
	} else {
		reason := g.distant(r)
		if reason == "" {
			return true
		}
		remedy = "weir has no password, so that only programs on its own machine may ask: " + reason +
			"; set WEIR_BASIC_AUTH_USER and WEIR_BASIC_AUTH_PASSWORD, or go through kubectl port-forward"
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="weir"`)
	say(w, http.StatusUnauthorized, remedy)
	return false
}

// knows compares hashes, which are all of one length, and always both, so that
// the time it takes tells nothing of either.
func (g *guard) knows(r *http.Request) bool {
	user, password, given := r.BasicAuth()
	u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(u[:], g.user[:]) & subtle.ConstantTimeCompare(p[:], g.password[:])
	return given && same == 1
}

// forwarded are the headers by which proxies say that they speak for others.
var forwarded = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "Via"}

// distant says why a request may be somebody else's than of a program on this
// machine, or "".
func (g *guard) distant(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().IsLoopback() {
		return "the peer is " + r.RemoteAddr
	}
	for _, name := range forwarded {
		if r.Header[name] != nil {
			return "a proxy sent " + name
		}
	}
	// A page of elsewhere that a browser on this machine shows is not this
	// machine: neither where it posts across origins, nor where it had its own
	// name point here.
	if !local(r.Host) {
		return "the request is for another host's name"
	}
	if err := g.cross.Check(r); err != nil {
		return "a page of another origin sent it"
	}
	return ""
}

// local says whether a Host is an address or under localhost. Any other name
// may be one that somebody had point here.
func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
