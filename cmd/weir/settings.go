package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/kelseyhightower/envconfig"
)

// prefix is that of every setting. A Service named weir makes Kubernetes inject
// WEIR_PORT, WEIR_SERVICE_HOST and the like: no setting may be called so.
const prefix = "WEIR"

// settings is what envconfig fills from the environment. The tags are also the
// source of docs/CONFIG.md. There are no envconfig tags: with one, envconfig
// falls back to the name without the prefix.
type settings struct {
	Provider  choice `split_words:"true" default:"kubernetes" desc:"Who runs the functions: kubernetes, or local for processes of this machine."`
	Namespace text   `split_words:"true" desc:"Namespaces whose functions are served: one, several with commas, or * for all. The first is that of names without one. Default: weir's own. local: the one of functions that name none; default: default."`
	Stack     path   `split_words:"true" desc:"local: the stack.yaml that describes the functions."`
	Fwatchdog path   `split_words:"true" desc:"local: the fwatchdog program. Default: beside weir, then on the PATH."`

	Listen        address `split_words:"true" default:":8080" desc:"Where requests and the API are served."`
	MetricsListen address `split_words:"true" default:":8082" desc:"Where /metrics is served, and to other weirs what this one carries. Not for the public."`

	BasicAuthUser         text   `split_words:"true" default:"admin" desc:"Who may use the protected routes."`
	BasicAuthPassword     secret `split_words:"true" desc:"The password. Without one the protected routes answer loopback peers only."`
	BasicAuthPasswordFile path   `split_words:"true" desc:"A file that holds the password; its last line break does not count."`

	HoldRequests number   `split_words:"true" default:"10000" desc:"Requests of one function that may wait for a pod; one more is answered 503."`
	HoldBytes    bytes    `split_words:"true" default:"256Mi" desc:"Bytes of request bodies that may be kept for one function meanwhile; beyond it 503."`
	HoldTimeout  duration `split_words:"true" default:"2m" desc:"How long a request waits for a pod before it is answered 503."`
	MaxBody      bytes    `split_words:"true" default:"0" desc:"Longest request body of a synchronous call, 413 beyond; 0 is no bound."`

	DataDir          path    `split_words:"true" desc:"A folder in which this weir keeps asynchronous calls: made if it is not there, and locked for this weir alone. For one weir; several keep them in WEIR_NATS_URL together."`
	NatsURL          text    `split_words:"true" desc:"A NATS server with JetStream, or several of one cluster with commas, in which weirs keep asynchronous calls together, such as nats://nats:4222 or tls://nats:4222. In place of WEIR_DATA_DIR."`
	NatsCredentials  path    `split_words:"true" desc:"A credentials file (.creds) for WEIR_NATS_URL."`
	NatsUser         text    `split_words:"true" desc:"The user for WEIR_NATS_URL."`
	NatsPassword     secret  `split_words:"true" desc:"The user's password."`
	NatsPasswordFile path    `split_words:"true" desc:"A file that holds the password; its last line break does not count."`
	NatsCa           path    `split_words:"true" desc:"The certificates of the authorities (PEM) that WEIR_NATS_URL is trusted by. Default: the system's."`
	NatsCert         path    `split_words:"true" desc:"This weir's certificate (PEM) for WEIR_NATS_URL, with WEIR_NATS_KEY."`
	NatsKey          path    `split_words:"true" desc:"Its key (PEM)."`
	NatsReplicas     number  `split_words:"true" default:"1" desc:"On how many servers of the cluster each call is kept: 1, 3 or 5."`
	NatsSync         syncing `split_words:"true" default:"interval" desc:"WEIR_DATA_DIR: always writes every call to the disk before it is acknowledged, so that it survives a power cut; interval does within two minutes, so that it survives the end of any process."`
	NatsListen       address `split_words:"true" desc:"WEIR_DATA_DIR: where its NATS server listens, for the nats command; it asks for no password. Default: nowhere."`
	NatsPrefix       text    `split_words:"true" desc:"What the names of streams and subjects begin with: different for weirs that share a NATS cluster but not their calls. Default: WEIR_RELEASE."`

	AsyncMaxBody    bytes    `split_words:"true" default:"1Mi" desc:"Longest request body of an asynchronous call, 413 beyond."`
	AsyncMaxAge     duration `split_words:"true" default:"24h" desc:"How long a call waits for a function that does not take it before it is a dead letter."`
	AsyncMaxTime    duration `split_words:"true" default:"1h" desc:"How long one attempt may run before it is cut."`
	AsyncMaxCalls   number   `split_words:"true" default:"2000000" desc:"Calls of one function that may be queued; one more is answered 503."`
	AsyncMaxStore   bytes    `split_words:"true" desc:"Bytes of all queued calls; beyond them 503. Dead letters may take a quarter as much, outcomes 1Gi. Servers of WEIR_NATS_URL set all of it aside. Default: 10Gi; WEIR_NATS_URL: 4Gi."`
	AsyncWindow     duration `split_words:"true" default:"10m" desc:"How long an Idempotency-Key is known, so that a call that is sent twice is one."`
	AsyncResultTime duration `split_words:"true" default:"1h" desc:"How long the outcome of a call can be asked for."`
	AsyncResultSize bytes    `split_words:"true" default:"64Ki" desc:"How much of a function's answer is kept with it."`

	CallbackAllow    text     `split_words:"true" desc:"Hosts and networks (CIDR), with commas, to which callbacks may go though they are this host's own, loopback, link-local or a cloud's metadata."`
	CallbackTimeout  duration `split_words:"true" default:"30s" desc:"How long a receiver of callbacks may take to answer."`
	CallbackMaxBody  bytes    `split_words:"true" default:"1Mi" desc:"How much of a function's answer a callback carries."`
	CallbackAttempts number   `split_words:"true" default:"10" desc:"How often a callback is tried."`
	Hosts            text     `split_words:"true" desc:"Names by which weir itself is called (host or host:port, with commas), beside its host name, loopback and the addresses at which it listens: a callback to one of them is a call of the function that its path names. The chart names its Service."`

	DrainInterval   duration `split_words:"true" desc:"After SIGTERM: how long all is still served while /healthz says 503, before the listener closes. Default: 5s; local: 0."`
	ShutdownTimeout duration `split_words:"true" default:"60s" desc:"How long requests under way, held ones too, may take after that."`

	Kubeconfig path `split_words:"true" desc:"kubernetes: a kubeconfig file. Default: the pod's own service account."`
	PodName    text `split_words:"true" desc:"kubernetes: the name of weir's own pod, for the Lease. Default: the host name."`
	Release    text `split_words:"true" default:"weir" desc:"kubernetes: the Lease's name, and the value of the label app.kubernetes.io/instance by which weirs that serve together find each other."`

	LogFormat format `split_words:"true" default:"text" desc:"text or json."`
	LogLevel  level  `split_words:"true" default:"info" desc:"debug, info, warn or error. debug has a line for every request."`
}

// read fills settings from the environment. The error names every variable
// that is wrong, its value and what was expected, one a line.
func read() (*settings, error) {
	s := new(settings)
	for _, name := range names() {
		// Empty is unset, which envconfig does not know.
		if os.Getenv(name) == "" {
			if err := os.Unsetenv(name); err != nil {
				return nil, err
			}
		}
	}
	if err := envconfig.Process(prefix, s); err != nil {
		return nil, err
	}
	var faults []error
	s.each(func(name string, f field) {
		if want := f.wanted(); want != "" {
			faults = append(faults, fmt.Errorf("%s=%q: expected %s", name, f.shown(), want))
		}
	})
	faults = append(faults, s.validate()...)
	return s, errors.Join(faults...)
}

// validate finds what does not go together, and reads the password's file.
func (s *settings) validate() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	s.validateNames(fault)
	s.validateHold(fault)
	s.validateStore(fault)
	switch {
	case s.Provider.val == "local" && s.Stack.val == "":
		fault("WEIR_STACK is not set: expected the path of a stack.yaml for WEIR_PROVIDER=local")
	case s.Provider.val == "kubernetes" && s.Stack.val != "":
		fault("WEIR_STACK=%q: only WEIR_PROVIDER=local reads a stack; with kubernetes apply manifests", s.Stack.val)
	}
	if s.Listen.val != "" && s.Listen.val == s.MetricsListen.val && !strings.HasSuffix(s.Listen.val, ":0") {
		fault("WEIR_METRICS_LISTEN=%q: expected another address than WEIR_LISTEN", s.MetricsListen.val)
	}
	if s.BasicAuthPasswordFile.val == "" {
		return faults
	}
	if s.BasicAuthPassword.val != "" {
		fault("WEIR_BASIC_AUTH_PASSWORD and WEIR_BASIC_AUTH_PASSWORD_FILE are both set: expected one of them")
		return faults
	}
	password, err := readSecret(s.BasicAuthPasswordFile.val)
	if err != nil {
		fault("WEIR_BASIC_AUTH_PASSWORD_FILE=%q: %w", s.BasicAuthPasswordFile.val, err)
	}
	s.BasicAuthPassword.val = password
	return faults
}

// secretBound keeps a wrong path from filling the memory.
const secretBound = 4096

func readSecret(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, secretBound+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > secretBound:
		return "", fmt.Errorf("longer than %d bytes: expected a password", secretBound)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", errors.New("empty: expected a password")
	}
	return password, nil
}

// each calls f with every setting and its variable.
func (s *settings) each(f func(name string, field field)) {
	v := reflect.ValueOf(s).Elem()
	for i, name := range names() {
		f(name, v.Field(i).Addr().Interface().(field))
	}
}

// names are the variables in the order of the fields, as envconfig spells
// them.
func names() []string {
	var list strings.Builder
	if err := envconfig.Usagef(prefix, new(settings), &list, "{{range .}}{{usage_key .}} {{end}}"); err != nil {
		panic(err) // the struct and the template are constants
	}
	return strings.Fields(list.String())
}

// unknown are variables that look like settings and are none: a misspelt one
// would otherwise do nothing in silence.
func unknown(environ []string) (found []string) {
	known := map[string]bool{}
	for _, name := range names() {
		known[name] = true
	}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, prefix+"_") && !known[name] && !serviceLink(name) {
			found = append(found, name)
		}
	}
	return found
}

// serviceLink says whether Kubernetes sets name for a Service whose name begins
// with weir.
func serviceLink(name string) bool {
	for _, end := range []string{"_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_PROTO", "_ADDR"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return strings.Contains(name, "_SERVICE_PORT_") || strings.HasSuffix(name, "_TCP") || strings.HasSuffix(name, "_UDP")
}
