package client

import (
	"crypto/tls"
	"fmt"
	"time"
)

// The defaults of ClientConfig.
const (
	defaultServerAddress     = "localhost:50051"
	defaultMaxRetries        = 3
	defaultRetryDelay        = time.Second
	defaultConnectionTimeout = 10 * time.Second
	defaultRequestTimeout    = 30 * time.Second
	defaultKeepaliveTime     = 30 * time.Second
	defaultKeepaliveTimeout  = 10 * time.Second
	defaultMaxConnections    = 10
)

// ClientConfig says how to reach the server and how long to try.
//
// In a config that is written out by hand, an empty address, a zero duration and a zero MaxConnections mean the
// default. MaxRetries and EnableKeepalive are taken as they stand: 0 is no retry, false is no keepalive.
type ClientConfig struct {
	// ServerAddress is host and port, without a scheme. Default localhost:50051.
	ServerAddress string
	// APIKey is sent as x-api-key with every call, beside what else the call's metadata says. Empty: none is sent.
	APIKey string
	// TLS encrypts the connection; nil leaves it in the clear. &tls.Config{} trusts the system's authorities.
	TLS *tls.Config

	// MaxRetries is how often a unary call is sent again at most. Default 3.
	MaxRetries int
	// RetryDelay is the longest wait before the first retry, twice of it before the second, and so on; the wait is a
	// random part of that, at least half. Where the server names a longer one, that is waited. Default 1 s.
	RetryDelay time.Duration
	// ConnectionTimeout is how long one attempt to connect may take. Default 10 s.
	ConnectionTimeout time.Duration
	// RequestTimeout is the budget of a unary call with all its retries, unless the caller's context ends earlier.
	// Streams have none. Default 30 s.
	RequestTimeout time.Duration

	// EnableKeepalive pings an idle connection, also while there is no call. Default true.
	EnableKeepalive bool
	// KeepaliveTime is the idle time before a ping. gRPC takes less than 10 s for 10 s. Default 30 s.
	KeepaliveTime time.Duration
	// KeepaliveTimeout is how long the answer to a ping may take before the connection counts as lost. Default 10 s.
	KeepaliveTimeout time.Duration

	// MaxConnections is the most connections that a pool opens; a pool asked for more is made with so many and says so
	// in the log. Default 10.
	MaxConnections int
	// MaxIdleConnections has no effect. It is here for programs that set it: gRPC closes a connection by itself after
	// half an hour without a call, and opens it again with the next one.
	MaxIdleConnections int
}

// DefaultConfig returns a config with every default.
func DefaultConfig() *ClientConfig {
	return &ClientConfig{
		ServerAddress:     defaultServerAddress,
		MaxRetries:        defaultMaxRetries,
		RetryDelay:        defaultRetryDelay,
		ConnectionTimeout: defaultConnectionTimeout,
		RequestTimeout:    defaultRequestTimeout,
		EnableKeepalive:   true,
		KeepaliveTime:     defaultKeepaliveTime,
		KeepaliveTimeout:  defaultKeepaliveTimeout,
		MaxConnections:    defaultMaxConnections,
	}
}

// completed returns a copy with defaults where nothing is said; the caller may go on changing its own.
func (given *ClientConfig) completed() (ClientConfig, error) {
	if given == nil {
		return *DefaultConfig(), nil
	}
	config := *given
	if config.TLS != nil {
		config.TLS = config.TLS.Clone()
	}
	if config.ServerAddress == "" {
		config.ServerAddress = defaultServerAddress
	}
	if config.MaxConnections == 0 {
		config.MaxConnections = defaultMaxConnections
	}
	if config.MaxRetries < 0 || config.MaxConnections < 0 {
		return config, fmt.Errorf("client: MaxRetries is %d and MaxConnections is %d: expected 0 or more",
			config.MaxRetries, config.MaxConnections)
	}
	durations := []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"RetryDelay", &config.RetryDelay, defaultRetryDelay},
		{"ConnectionTimeout", &config.ConnectionTimeout, defaultConnectionTimeout},
		{"RequestTimeout", &config.RequestTimeout, defaultRequestTimeout},
		{"KeepaliveTime", &config.KeepaliveTime, defaultKeepaliveTime},
		{"KeepaliveTimeout", &config.KeepaliveTimeout, defaultKeepaliveTimeout},
	}
	for _, duration := range durations {
		if *duration.value < 0 {
			return config, fmt.Errorf("client: %s is %v: expected 0 (the default, %v) or more",
				duration.name, *duration.value, duration.standard)
		}
		if *duration.value == 0 {
			*duration.value = duration.standard
		}
	}
	return config, nil
}
