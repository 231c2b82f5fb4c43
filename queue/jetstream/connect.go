package jetstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

const (
	// dialTimeout is for one server, at the start and at each try later.
	dialTimeout = 2 * time.Second
	// dialAgain is how often a lost server is tried.
	dialAgain = 250 * time.Millisecond
	// pingEvery and pingsOut find a server that is gone without a word.
	pingEvery = 5 * time.Second
	pingsOut  = 2
)

// oldest is the first server that forgets single messages after a time of
// their own.
var oldest = [2]int{2, 11}

func (s *Store) connect(ctx context.Context) error {
	options, err := s.options()
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		options = append(options, nats.Timeout(max(min(dialTimeout, time.Until(deadline)), time.Millisecond)))
	}
	s.conn, err = nats.Connect(s.cfg.URL, options...)
	if err != nil {
		return s.notConnected(err)
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	return s.suits(ctx)
}

func (s *Store) options() ([]nats.Option, error) {
	c := &s.cfg
	options := []nats.Option{
		nats.Name("weir " + c.Name),
		nats.Timeout(dialTimeout), nats.MaxReconnects(-1), nats.ReconnectWait(dialAgain),
		nats.ReconnectJitter(dialAgain, dialAgain), nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(pingsOut),
		nats.IgnoreAuthErrorAbort(), // rights may come back as servers do
		nats.ReconnectBufSize(-1),   // what cannot be sent now is an error now
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.log.Warn("the store of calls is away", "err", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			s.log.Info("the store of calls is back", "server", conn.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				text := err.Error()
				s.denied.Store(&text)
			}
			s.log.Warn("the store of calls", "err", err)
		}),
	}
	if s.server != nil {
		options = append(options, nats.InProcessServer(s.server))
	}
	if c.User != "" {
		options = append(options, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		options = append(options, nats.Token(c.Token))
	}
	if s.server != nil {
		return options, nil
	}
	return s.files(options)
}

// files adds what stands in files, and says which cannot be read: the library
// reads some of them late.
func (s *Store) files(options []nats.Option) ([]nats.Option, error) {
	c := &s.cfg
	for what, path := range map[string]string{"credentials": c.Credentials, "NKey seed": c.NKey, "CA": c.CA, "certificate": c.Certificate, "key": c.Key} {
		if path == "" {
			continue
		}
		if _, err := os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("%s for NATS: %w", what, err)
		}
	}
	if c.Credentials != "" {
		options = append(options, nats.UserCredentials(c.Credentials))
	}
	if c.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("NKey seed for NATS in %s: %w", c.NKey, err)
		}
		options = append(options, option)
	}
	if c.CA != "" {
		options = append(options, nats.RootCAs(c.CA))
	}
	if (c.Certificate == "") != (c.Key == "") {
		return nil, errors.New("a certificate for NATS needs its key, and the key its certificate")
	}
	if c.Certificate != "" {
		options = append(options, nats.ClientCert(c.Certificate, c.Key))
	}
	return options, nil
}

// notConnected tells what time heals from what it does not.
func (s *Store) notConnected(err error) error {
	if s.server != nil {
		return fmt.Errorf("reach the server of the store: %w", err)
	}
	what := "NATS at " + withoutSecrets(s.cfg.URL)
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: its certificate is of a CA that is not known here: give the CA's file: %w", what, err)
	case strings.Contains(err.Error(), "after TLS handshake"), strings.Contains(err.Error(), "tls: certificate required"):
		return fmt.Errorf("%s: it ended the connection over TLS, as where it wants a client certificate of a CA that it knows: %w", what, err)
	case errors.As(err, &host), errors.As(err, &record), errors.As(err, &invalid),
		strings.Contains(err.Error(), "tls: "):
		return fmt.Errorf("%s: TLS: %w", what, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%s: the server has no TLS: use nats:// and no CA, or give it a certificate: %w", what, err)
	case errors.Is(err, nats.ErrSecureConnRequired):
		return fmt.Errorf("%s: the server wants TLS: use tls://: %w", what, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported):
		return fmt.Errorf("%s: it does not take these credentials: %w", what, err)
	case strings.Contains(err.Error(), "root certificate"):
		return fmt.Errorf("%s: the CA's file has no certificate in PEM: %w", what, err)
	case strings.Contains(err.Error(), "signing nonce"), strings.Contains(err.Error(), "user jwt"):
		return fmt.Errorf("%s: the credentials file is none as NATS makes them (.creds): %w", what, err)
	case strings.Contains(err.Error(), "parse"), strings.Contains(err.Error(), "invalid port"):
		return fmt.Errorf("%s: expected nats://HOST:PORT or tls://HOST:PORT, several with commas between them: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, queue.ErrAway, err)
}

func withoutSecrets(urls string) string {
	all := strings.Split(urls, ",")
	for i, u := range all {
		if at := strings.LastIndexByte(u, '@'); at >= 0 {
			scheme, _, ok := strings.Cut(u, "://")
			all[i] = u[at+1:]
			if ok {
				all[i] = scheme + "://" + all[i]
			}
		}
	}
	return strings.Join(all, ",")
}

// suits says what the server lacks.
func (s *Store) suits(ctx context.Context) error {
	version := s.conn.ConnectedServerVersion()
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err == nil && (major < oldest[0] || major == oldest[0] && minor < oldest[1]) {
		return fmt.Errorf("the NATS server has version %s: weir needs %d.%d or later", version, oldest[0], oldest[1])
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, nats.ErrNoResponders) && s.server == nil {
		return errNoJetStream
	}
	return s.explained("JetStream", err)
}
