package watchdog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/contract"
)

// issuerURL is the only address that jwt_auth_local asks.
const issuerURL = "http://127.0.0.1:8000"

// issue serves h where jwt_auth_local asks, or skips.
func issue(t *testing.T, h http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		t.Skipf("the issuer's fixed address is taken: %v", err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // of faas-middleware
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signer makes tokens by hand, so that the library under test does not check
// itself.
type signer struct{ key *ecdsa.PrivateKey }

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key}
}

func (s signer) public(t *testing.T) []byte {
	t.Helper()
	point, err := s.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	return point
}

func (s signer) jwks(t *testing.T, kid string) map[string]any {
	p := s.public(t)
	return map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": b64(p[1:33]), "y": b64(p[33:]),
	}}}
}

func (s signer) token(t *testing.T, alg, kid string, claims map[string]any) string {
	t.Helper()
	head := map[string]any{"typ": "JWT", "alg": alg}
	if kid != "" {
		head["kid"] = kid
	}
	signed := b64(mustJSON(t, head)) + "." + b64(mustJSON(t, claims))
	sum := sha256.Sum256([]byte(signed))
	var sig []byte
	switch alg {
	case "ES256":
		a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sig = make([]byte, 64)
		a.FillBytes(sig[:32])
		b.FillBytes(sig[32:])
	case "HS256": // keyed with the public key, which everybody knows
		mac := hmac.New(sha256.New, s.public(t))
		mac.Write([]byte(signed))
		sig = mac.Sum(nil)
	}
	return signed + "." + b64(sig)
}

func TestAuthenticate(t *testing.T) {
	ours, theirs := newSigner(t), newSigner(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/keys"}`, issuerURL, issuerURL)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(mustJSON(t, ours.jwks(t, "key-1")))
	})
	issue(t, mux)

	var reached int
	h, err := authenticate(Config{JWTAuth: true, JWTAuthLocal: true, FunctionName: "env", FunctionNamespace: "openfaas-fn"},
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	if err != nil {
		t.Fatal(err)
	}

	now := time.Now()
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{
			"iss": issuerURL, "aud": issuerURL, "sub": "fed",
			"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
			"function": map[string]any{"permissions": []string{"openfaas-fn:env"}},
		}
		maps.Copy(c, change)
		return c
	}
	valid := ours.token(t, "ES256", "key-1", claims(nil))
	flipped := []byte(valid)
	flipped[len(flipped)-3] ^= 1
	permit := func(what ...string) map[string]any {
		return map[string]any{"function": map[string]any{"permissions": what}}
	}
	for _, c := range []struct {
		name, authorization string
		want                int
	}{
		{"valid", "Bearer " + valid, 200},
		{"valid for all", "Bearer " + ours.token(t, "ES256", "key-1", claims(permit("*"))), 200},
		{"missing", "", 401},
		{"empty", "Bearer ", 401},
		{"no token", "Bearer x.y.z", 401},
		{"basic", "Basic " + b64([]byte("admin:admin")), 401},
		{"wrong audience", "Bearer " + ours.token(t, "ES256", "key-1", claims(map[string]any{"aud": "http://other"})), 401},
		{"wrong issuer", "Bearer " + ours.token(t, "ES256", "key-1", claims(map[string]any{"iss": "http://other"})), 401},
		{"expired", "Bearer " + ours.token(t, "ES256", "key-1", claims(map[string]any{"exp": now.Add(-time.Minute).Unix()})), 401},
		{"not yet", "Bearer " + ours.token(t, "ES256", "key-1", claims(map[string]any{"nbf": now.Add(time.Hour).Unix()})), 401},
		{"alg none", "Bearer " + ours.token(t, "none", "key-1", claims(nil)), 401},
		{"public key as a secret", "Bearer " + ours.token(t, "HS256", "key-1", claims(nil)), 401},
		{"unknown kid", "Bearer " + ours.token(t, "ES256", "key-2", claims(nil)), 401},
		{"no kid", "Bearer " + ours.token(t, "ES256", "", claims(nil)), 401},
		{"another's signature", "Bearer " + theirs.token(t, "ES256", "key-1", claims(nil)), 401},
		{"changed signature", "Bearer " + string(flipped), 401},
		{"other function", "Bearer " + ours.token(t, "ES256", "key-1", claims(permit("openfaas-fn:figlet"))), 403},
		{"other namespace", "Bearer " + ours.token(t, "ES256", "key-1", claims(permit("dev:env"))), 403},
		{"no permission", "Bearer " + ours.token(t, "ES256", "key-1", claims(permit())), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x"))
			if c.authorization != "" {
				r.Header.Set("Authorization", c.authorization)
			}
			reached = 0
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.want || (reached == 1) != (c.want == 200) {
				t.Errorf("status %d, handler reached %d times, want %d: %s", w.Code, reached, c.want, w.Body)
			}
			if c.want == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("WWW-Authenticate %q", w.Header().Get("WWW-Authenticate"))
			}
			if c.want != 200 && w.Header().Get(contract.HeaderInternal) != contract.InternalMiddleware {
				t.Errorf("%s %q", contract.HeaderInternal, w.Header().Get(contract.HeaderInternal))
			}
		})
	}
}

// TestAuthenticateNoIssuer: a start that cannot learn the keys fails and says
// which setting asked for them.
func TestAuthenticateNoIssuer(t *testing.T) {
	answer := make(chan http.HandlerFunc, 1)
	issue(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := <-answer
		answer <- h
		h(w, r)
	}))
	cfg := Config{JWTAuthLocal: true, FunctionName: "f", FunctionNamespace: "n"}
	for name, h := range map[string]http.HandlerFunc{
		"error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no keys": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"issuer":"x","jwks_uri":"http://127.0.0.1:1"}`)
		},
		"broken off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		answer <- h
		_, err := authenticate(cfg, http.NotFoundHandler())
		if err == nil || !strings.Contains(err.Error(), "jwt_auth") {
			t.Errorf("%s: %v", name, err)
		}
		<-answer
	}
}

// TestAuthenticateSilentIssuer: faas-middleware asks with a client that waits
// for ever; the start does not, and nothing stays once the issuer lets go.
func TestAuthenticateSilentIssuer(t *testing.T) {
	letGo := make(chan struct{})
	issue(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-letGo
		panic(http.ErrAbortHandler)
	}))
	before := runtime.NumGoroutine()
	failed := make(chan error, 1)
	go func() {
		_, err := authenticateWithin(50*time.Millisecond, Config{JWTAuthLocal: true}, http.NotFoundHandler())
		failed <- err
	}()
	select {
	case err := <-failed:
		if err == nil || !strings.Contains(err.Error(), "no answer within 50ms") {
			t.Errorf("got %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still waiting for the issuer")
	}
	close(letGo)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		http.DefaultClient.CloseIdleConnections()
		if n := runtime.NumGoroutine(); n <= before {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", n, before)
		}
	}
}
