package client

import (
	"context"

	"google.golang.org/grpc/metadata"
)

const (
	apiKeyName    = "x-api-key"
	requestIDName = "x-request-id"
)

// WithAPIKey returns a context whose calls carry the config's API key. Every call of this client does so anyway; a
// context that has a key already, or a config without one, is returned as it is.
func (c *Client) WithAPIKey(ctx context.Context) context.Context {
	sent, _ := metadata.FromOutgoingContext(ctx)
	if c.config.APIKey == "" || len(sent.Get(apiKeyName)) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, apiKeyName, c.config.APIKey)
}

// WithRequestID returns a context whose calls carry this id, in place of an earlier one. The server gives it back as
// x-request-id. The rest of the outgoing metadata stays.
func (c *Client) WithRequestID(ctx context.Context, id string) context.Context {
	// It is a copy: other contexts that share the metadata do not see the change.
	sent, known := metadata.FromOutgoingContext(ctx)
	if !known {
		sent = metadata.MD{}
	}
	sent.Set(requestIDName, id)
	return metadata.NewOutgoingContext(ctx, sent)
}
