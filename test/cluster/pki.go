package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certLife outlives any test; every start makes new certificates.
const certLife = 30 * 24 * time.Hour

// A pki is the certificate authority of one start of the node and the folder
// that it writes to.
type pki struct {
	dir  string
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64 // serial number
}

func newPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, key: key, next: 1}
	p.ca = &x509.Certificate{
		Subject:               pkix.Name{CommonName: "weir test cluster"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if err := p.sign("ca", p.ca, key); err != nil {
		return nil, err
	}
	// The service accounts' tokens are signed with a key that certifies nothing.
	account, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&account.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := p.writeKey("service-account", account); err != nil {
		return nil, err
	}
	return p, p.writePEM("service-account.pub", "PUBLIC KEY", public)
}

// issue makes NAME.crt and NAME.key for a user of the API, its groups, and the
// addresses that it serves on.
func (p *pki) issue(name string, subject pkix.Name, hosts ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		Subject:     subject,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	return p.sign(name, c, key)
}

func (p *pki) sign(name string, c *x509.Certificate, key *ecdsa.PrivateKey) error {
	c.SerialNumber = big.NewInt(p.next)
	p.next++
	// A machine's clock may be set back a little while the node runs.
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(certLife)
	der, err := x509.CreateCertificate(rand.Reader, c, p.ca, &key.PublicKey, p.key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", name, err)
	}
	if err := p.writePEM(name+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	return p.writeKey(name, key)
}

func (p *pki) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return p.writePEM(name+".key", "EC PRIVATE KEY", der)
}

func (p *pki) writePEM(file, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(p.dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (p *pki) path(file string) string { return filepath.Join(p.dir, file) }

// kubeconfig writes a self-contained kubeconfig of an issued user.
func (p *pki) kubeconfig(path, user string) error {
	var data [3]string
	for i, file := range []string{"ca.crt", user + ".crt", user + ".key"} {
		text, err := os.ReadFile(p.path(file))
		if err != nil {
			return err
		}
		data[i] = base64.StdEncoding.EncodeToString(text)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: weir-test
  cluster: {server: "https://%s:6443", certificate-authority-data: %s}
users:
- name: %s
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: weir-test
  context: {cluster: weir-test, user: %s}
current-context: weir-test
`, nodeIP, data[0], user, data[1], data[2], user)
	return os.WriteFile(path, []byte(text), 0o600)
}
